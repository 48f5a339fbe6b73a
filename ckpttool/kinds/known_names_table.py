"""What the last part of an entry's name says about its kind: the data that ``known_names`` looks up.

From what modules register in torch 2.13, timm 1.0, transformers 5.23 and diffusers 0.42, and from
scans of older releases. Patterns stay narrow on purpose: ``*_mean``, ``*_std`` or ``*_window`` as buffers
would lose parameters (clip_mean, clip_std, pos_embed_window).
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """What some names say.

    ``names`` are separated by spaces; ``a`` is the last part of a name, ``m.a`` also wants it in a module
    whose name is m (its last part that is not a number). Trailing digits do not count where the name as it
    stands is not listed: gamma_1 is gamma. With a ``shape`` the names hold for it only, and then before all
    others. ``endings`` of the last part are tried after all names, but not of a name that begins with ``_``;
    the longest wins. ``note`` is shown to
    people: where the name is from and, where that changed, in which versions. ``rebuilt``: newer code, as
    the note says since when, still builds the buffer and leaves it out of files.
    """

    note: str
    names: str = ""
    endings: str = ""
    shape: str = ""
    rebuilt: bool = False


class MissingRule(NamedTuple):
    """Names of the buffers of modules that hold nothing in a file but are named by its ``_metadata``."""

    modules: str
    names: str
    note: str


# ---------------------------------------------------------------------------------------- parameters

PARAMETERS = (
    Rule(
        "torch.nn",
        """
        weight bias in_proj_weight in_proj_bias bias_k bias_v q_proj_weight k_proj_weight v_proj_weight
        weight_ih weight_hh bias_ih bias_hh weight_ih_l weight_hh_l weight_hr_l bias_ih_l bias_hh_l
        """,
        endings="_reverse",
    ),
    Rule("a weight or bias by its ending", endings="weight bias _biases _table bias_u bias_v"),
    Rule(
        "a gain or scale that is learnt",
        """
        gain gamma beta alpha scale temperature tau logit_scale lambda lambda_q lambda_k lambda_init_fn
        layer_scale layer_scale_parameter ls skipinit_gain g v gate alpha_p alpha_n reg_scale hc_scale
        logit_scale_a logit_scale_t res_scale log_scale scalar A A_log A_logs D Ds a b w_g gamma_xca
        alpha_cross_attn alpha_dense gate_attention gate_ffw scaling temp logit_bias gru_rel_pos_const
        time_decay time_first time_mix_key time_mix_value time_mix_receptance bin_score
        index_kpool_compress_gate
        """,
        endings="gamma _gain _alpha _scale _parameter _param _residual",
    ),
    Rule(
        "a learnt token, query or position",
        """
        cls_token pos_embed pos_emb pos_embedding position_embedding position_embeddings
        positional_embedding positional_embeddings position_embedding_table query queries latent latents
        latents_1d latents_2d probe class_embedding class_pos_emb image_newline sinks prompt
        prompt_embeddings rel_pos rel_pos_h rel_pos_w height_rel width_rel tokens class_token pos_embed_x
        pos_embed_y pos_embed_win pos_embed_window image_begin image_end image_sep positional_embedding_vlm
        position_enc codevectors emb_rel_k emb_rel_v pad_up pad_down pad_left pad_right
        """,
        endings="""
        _token _tokens _emb _embed _embeds _embedding _embeddings _query _queries _latents _prompt _newline
        _positional_encoding _pointer _latent _ape _embeddings_concat _extensor
        """,
    ),
    Rule(
        "a fused or factored projection",
        """
        kernel_q kernel_k kernel_v q_kernel k_kernel v_kernel o_kernel r_kernel q k o r gate_up_proj
        down_proj gate_proj up_proj up down proj w wi wo lora_A lora_B fn base hc_fn hc_base
        scale_shift_table attention_biases weights_dist latent_scaling_factor latent_bias_factor clip_mean
        clip_std weight_packed weight_scale weight_scale_inv weight_shape weight_zero_point input_scale
        """,
        endings="_proj _projection _proj_blocks _proj_scales _shift_table",
    ),
)

# ------------------------------------------------------------------------------------------- buffers

BUFFERS = (
    Rule("torch.nn norms, AveragedModel", "running_mean running_var num_batches_tracked n_averaged"),
    Rule("torch.nn losses and criteria", "pos_weight empty_weight class_weight class_weights"),
    Rule(
        "torch.ao observers and fake quantization",
        "min_val max_val histogram fake_quant_enabled observer_enabled zero_point zero_points",
    ),
    Rule("GPTQ and AWQ linears (a parameter in serving engines)", "qweight qzeros scales g_idx"),
    Rule(
        "rotary positions; mostly not saved (transformers since 4.32)",
        "inv_freq original_inv_freq freqs_cis freqs_cos freqs_sin cos_cached sin_cached",
        rebuilt=True,
    ),
    Rule(
        "transformers; mostly not saved since 4.31",
        """
        position_ids token_type_ids masked_bias causal_mask attention_bias_idxs relative_position_index
        """,
        rebuilt=True,
    ),
    Rule(
        "timm, transformers: index tables and masks of windows; not saved since timm 0.9",
        "attn_mask relative_coords_table rel_pos_indices rel_indices",
        rebuilt=True,
    ),
    Rule(
        "transformers: router bias, updated without gradient (a parameter in ernie4_5_moe, laguna)",
        "e_score_correction_bias balancing_biases",
    ),
    Rule("transformers: bart, marian, pegasus, ...", "final_logits_bias"),
    Rule("transformers: gemma", "layer_scalar embed_scale"),
    Rule(
        "codebooks: encodec, mimi, vector-quantize",
        """
        cluster_size cluster_usage embed_avg embed_sum inited initted initialized ema_cluster_size ema_w
        """,
    ),
    Rule("clipped linears of gemma vision", "input_min input_max output_min output_max"),
    Rule(
        "transformers: ibert",
        "x_min x_max act_scaling_factor fc_scaling_factor LayerNorm.shift",
        endings="_scaling_factor _integer",
    ),
    Rule(
        "a constant of input or latent normalization",
        """
        pixel_mean pixel_std image_mean image_std latents_mean latents_std latent_mean latent_std
        global_mean global_invstd std_bias std_scale
        """,
    ),
    Rule(
        "diffusion schedule",
        """
        betas alphas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
        log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod
        posterior_variance posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2
        posterior_mean_coef
        """,
    ),
    Rule("decay of linear attention", "slope_rate query_decay key_decay diagonal_decay slopes"),
    Rule(
        "a fixed filter or window: anti-aliased vocoders, torchaudio",
        "upsample.filter lowpass.filter dct_mat fb window",
    ),
    Rule("an average of the weights (EMA)", "decay num_updates"),
    Rule("segment anything: fixed random positions", "positional_encoding_gaussian_matrix"),
    Rule("transformers: detection heads", "num_points_scale n_points_scale pos_idx_to_embed attn_mask_probs"),
    Rule("rotary positions; of more dimensions they are learnt", "freqs", shape="n"),
    Rule(
        "causal mask: gpt2 before transformers 4.30, nanoGPT",
        "bias mask tril causal_mask",
        shape="1 x 1 x n x n",
    ),
    Rule(
        "segment anything: a fixed Fourier matrix (a parameter in sam itself)",
        "positional_embedding",
        shape="2 x n",
    ),
    Rule("transformers: xIELU", "act_fn.beta act_fn.eps"),
    Rule("diffusers PatchEmbed: sinusoids, saved where pos_embed_max_size is set", "pos_embed.pos_embed"),
)

# ----------------------------------------------------------------------------------------- ambiguous

AMBIGUOUS = (
    Rule(
        "a norm of vectors, learnt where it is asked to be (ViSNet)",
        "vec_layernorm.weight vec_out_norm.weight",
    ),
    Rule(
        "learnt positions in some libraries, fixed ones in others",
        "encoder.positional_embedding rotary_emb.alpha freqs pe",
    ),
    Rule(
        "a parameter in some libraries, a buffer in others",
        "mean std weights filter kernel expert_bias codebook shift mask",
    ),
    Rule(
        "quantization state of bitsandbytes beside the weight",
        "SCB absmax quant_map nested_absmax nested_quant_map",
    ),
)

# ----------------------------------------------------------------------------------- optimizer states

OPTIMIZER_STATES = (
    Rule(
        "a state of torch.optim",
        "exp_avg exp_avg_sq max_exp_avg_sq exp_inf momentum_buffer square_avg acc_delta",
    ),
)

# -------------------------------------------------------------------------------------------- missing

MISSING = (
    # Some models have one for each type of attention.
    MissingRule(
        "rotary_emb rotary_pos_emb rotary_emb_unscaled vision_rotary_embedding rope_embeddings",
        "inv_freq",
        "rotary positions",
    ),
    MissingRule("embed_positions", "weights", "sinusoidal positions"),
)
