"""Models of sound and speech."""

from __future__ import annotations

from typing import Any

from benchmarks.whole_models.calls import Build, Models, calls


def torchaudio() -> Models:
    arguments: dict[str, dict[str, Any]] = {
        "conv_tasnet_base": {},
        "hdemucs_low": {"sources": ["drums", "bass"]},
        "emformer_rnnt_base": {"num_symbols": 16},
        "squim_objective_base": {},
        "squim_subjective_base": {},
        "wav2vec2_base": {},
        "wavlm_base": {},
        "hubert_pretrain_base": {},
        "Tacotron2": {},
        "WaveRNN": {"upsample_scales": [2, 2], "n_classes": 8, "hop_length": 4},
        "DeepSpeech": {"n_feature": 8, "n_hidden": 16},
        "Wav2Letter": {},
        "Conformer": {
            "input_dim": 8,
            "num_heads": 2,
            "ffn_dim": 16,
            "num_layers": 2,
            "depthwise_conv_kernel_size": 3,
        },
        "Emformer": {"input_dim": 8, "num_heads": 2, "ffn_dim": 16, "num_layers": 2, "segment_length": 4},
    }
    yield from calls("torchaudio.models", arguments)


def asteroid() -> Models:
    arguments: dict[str, dict[str, Any]] = {
        **{f"ConvTasNet {bank}": {"n_src": 2, "fb_name": bank} for bank in ("free", "stft", "param_sinc")},
        "ConvTasNet analytic_free": {"n_src": 2, "fb_name": "analytic_free"},
        "DCUNet": {"architecture": "DCUNet-10"},
        "DPRNNTasNet": {"n_src": 2, "n_repeats": 2},
        "DPTNet": {"n_src": 2, "n_repeats": 2},
        "SuDORMRFNet": {"n_src": 2, "num_blocks": 2},
        "SuDORMRFImprovedNet": {"n_src": 2, "num_blocks": 2},
        "LSTMTasNet": {"n_src": 2, "n_layers": 2, "hid_size_ratio": 0.1},
        "FasNetTAC": {"n_src": 2, "n_layers": 2},
        "DeMask": {},
    }
    yield from calls("asteroid.models", arguments)


def speechbrain() -> Models:
    def call(module: str, name: str, **arguments: Any) -> tuple[str, Build]:
        return next(calls(f"speechbrain.{module}", {name: arguments}))

    asr = {
        "tgt_vocab": 16,
        "input_size": 16,
        "d_model": 16,
        "nhead": 2,
        "d_ffn": 32,
        "normalize_before": True,
    }
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    transformer = "lobes.models.transformer.TransformerASR"
    for encoder in ("transformer", "conformer", "branchformer"):
        attention = "regularMHA" if encoder == "transformer" else "RelPosMHAXL"
        name, build = call(
            transformer, "TransformerASR", **asr, **layers, encoder_module=encoder, attention_type=attention
        )
        yield f"{name} {encoder}", build
    yield call("lobes.models.transformer.TransformerLM", "TransformerLM", vocab=16, d_model=16, nhead=2)
    yield call("lobes.models.ECAPA_TDNN", "ECAPA_TDNN", input_size=16, channels=[32] * 4 + [96])
    yield call("lobes.models.Xvector", "Xvector", in_channels=16)
    yield call("lobes.models.CRDNN", "CRDNN", input_shape=[None, None, 40], rnn_layers=1, cnn_channels=(8, 8))
    yield call("lobes.models.ContextNet", "ContextNet", input_shape=[2, 20, 16], out_channels=16)
    yield call("lobes.models.Cnn14", "Cnn14", mel_bins=16, emb_dim=64)
    yield call("lobes.models.Tacotron2", "Tacotron2", encoder_embedding_dim=32, decoder_rnn_dim=32)
    yield call("lobes.models.HifiGAN", "HifiganDiscriminator")
    yield call("lobes.models.MetricGAN", "EnhancementGenerator", input_size=17, hidden_size=8)
    yield call("lobes.models.MetricGAN", "MetricDiscriminator")
    yield call("lobes.models.conv_tasnet", "MaskNet", N=8, B=8, H=16, P=3, X=2, R=2, C=2)
    yield call("lobes.models.discrete.dac", "DAC", encoder_dim=8, decoder_dim=64, encoder_rates=[2, 2])
    yield call("lobes.models.dual_path", "SepformerWrapper", encoder_out_nchannels=16, masknet_chunksize=10)
    yield call("lobes.models.EnhanceResnet", "EnhanceResnet")
    yield call("lobes.models.beats", "BEATs", ckp_path=None)
    diffwave = {"input_channels": 16, "residual_layers": 4, "residual_channels": 8}
    yield call("lobes.models.DiffWave", "DiffWave", **diffwave, dilation_cycle_length=2, total_steps=10)
    yield call("lobes.features", "Fbank", deltas=True)
    yield call("lobes.features", "MFCC")
