"""Models of graphs, series, tables and text."""

from __future__ import annotations

import functools
import importlib
import itertools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.whole_models.calls import Models, calls, first_that_builds, plain


def pykeen() -> Models:
    from pykeen.models import model_resolver

    def build(name: str) -> nn.Module:
        import numpy as np
        from pykeen.triples import TriplesFactory, TriplesNumericLiteralsFactory

        entities = [f"e{index}" for index in range(12)]
        pairs = [(a, f"r{index % 3}", b) for index, (a, b) in enumerate(itertools.pairwise(entities))]
        triples = np.array(pairs, dtype=str)
        cls = model_resolver.lookup_dict[name]
        if "literal" in name:
            values = np.array([(entity, "age", "1.0") for entity in entities], dtype=str)
            make = functools.partial(
                TriplesNumericLiteralsFactory.from_labeled_triples, numeric_triples=values
            )
        else:
            make = TriplesFactory.from_labeled_triples
        factories = [make(triples, create_inverse_triples=inverse) for inverse in (False, True)]
        attempts = ({"embedding_dim": 8}, {})
        return first_that_builds(
            cls, *({"triples_factory": f, **more} for f in factories for more in attempts)
        )

    for name in sorted(model_resolver.lookup_dict):
        yield name, functools.partial(build, name)


def neuralforecast() -> Models:
    module = importlib.import_module("neuralforecast.models")
    multivariate = (
        "StemGNN TSMixer TSMixerx MLPMultivariate iTransformer SOFTS SOFTSSharp TimeMixer RMoK TimeXer"
    )
    for name in module.__all__:
        arguments: dict[str, Any] = {"h": 8, "input_size": 16, "max_steps": 1}
        if name in f"{multivariate} XLinear".split():
            arguments["n_series"] = 2
        yield from calls(module.__name__, {name: arguments})


def tsai() -> Models:
    names = "FCN FCNPlus"
    names += " InceptionTime InceptionTimePlus MLP OmniScaleCNN PatchTST RNN LSTM GRU"
    names += (
        " RNNAttention LSTMAttention RNNPlus LSTMPlus GRU_FCN LSTM_FCN LSTM_FCNPlus RNN_FCN ResCNN ResNet"
    )
    names += " ResNetPlus TCN TSPerceiver TSSequencerPlus TST TSTPlus TSiTPlus TransformerModel XCM XCMPlus"
    names += " XResNet1dPlus XceptionTime XceptionTimePlus gMLP mWDN MiniRocketPlus MiniRocketFeaturesPlus"
    names += " ConvTranPlus HydraPlus HydraMultiRocketPlus MultiRocketPlus xresnet1d18 xresnet1d18plus"
    names += " TransformerRNNPlus TransformerLSTMPlus"
    attempts = ({"seq_len": 32}, {}, {"seq_len": 32, "pred_dim": 8})
    common = {"c_in": 3, "c_out": 2}

    def build(name: str) -> nn.Module:
        found = getattr(importlib.import_module("tsai.models.all"), name)
        return first_that_builds(found, *({**common, **more} for more in attempts))

    for name in names.split():
        yield name, functools.partial(build, name)


def snntorch() -> Models:
    def build(cell: str) -> nn.Module:
        import snntorch

        arguments: dict[str, dict[str, Any]] = {
            "Leaky": {"beta": 0.9},
            "Leaky learnt": {"beta": torch.full((8,), 0.9), "learn_beta": True, "learn_threshold": True},
            "RLeaky": {"beta": 0.9, "linear_features": 8},
            "Synaptic": {"alpha": 0.8, "beta": 0.9},
            "RSynaptic": {"alpha": 0.8, "beta": 0.9, "linear_features": 8, "learn_alpha": True},
            "Alpha": {"alpha": 0.9, "beta": 0.8},
            "Lapicque": {"beta": 0.9},
            "SLSTM": {"input_size": 8, "hidden_size": 8},
        }
        own = arguments[cell]
        node = getattr(snntorch, cell.split()[0])
        return nn.Sequential(nn.Linear(8, 8), node(**own), nn.Linear(8, 8), node(**own))

    for cell in ("Leaky", "Leaky learnt", "RLeaky", "Synaptic", "RSynaptic", "Alpha", "Lapicque", "SLSTM"):
        yield cell, functools.partial(build, cell)


def sentence_transformers() -> Models:
    def build(kind: str) -> nn.Module:
        import transformers
        from sentence_transformers import SentenceTransformer, models

        with tempfile.TemporaryDirectory() as folder:
            words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
            Path(folder, "vocab.txt").write_text("\n".join(words))
            sizes = {
                "hidden_size": 16,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
            }
            cls = {"bert": "Bert", "distil": "DistilBert", "roberta": "Roberta", "mpnet": "MPNet"}[kind]
            if kind == "distil":
                sizes = {"dim": 16, "n_heads": 2, "hidden_dim": 16, "n_layers": 2}
            config = getattr(transformers, f"{cls}Config")(vocab_size=len(words), **sizes)
            getattr(transformers, f"{cls}Model")(config).save_pretrained(folder)
            transformers.BertTokenizer(str(Path(folder, "vocab.txt"))).save_pretrained(folder)
            base = models.Transformer(folder)
            dense = models.Dense(in_features=16, out_features=8)
            return SentenceTransformer(
                modules=[base, models.Pooling(16), dense, models.Normalize()], device="cpu"
            )

    for kind in ("bert", "distil", "roberta", "mpnet"):
        yield kind, functools.partial(build, kind)


def recbole() -> Models:
    import recbole

    folder = Path(recbole.__file__).parent

    def build(name: str) -> nn.Module:
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model

        given: dict[str, Any] = {
            "data_path": str(folder / "dataset_example"),
            "checkpoint_dir": tempfile.gettempdir(),
            "use_gpu": False,
            "state": "ERROR",
            "show_progress": False,
        }

        def make(**settings: Any) -> nn.Module:
            config = Config(model=name, dataset="ml-100k", config_dict={**given, **settings})
            train, _, _ = data_preparation(config, create_dataset(config))
            return get_model(name)(config, train.dataset)

        cross_entropy = {"loss_type": "CE", "train_neg_sample_args": None}
        return first_that_builds(make, {}, cross_entropy, {"loss_type": "BPR"})

    for path in sorted((folder / "model").glob("*_recommender/*.py")):
        if path.stem == "__init__" or "exlib" in str(path):
            continue
        module = importlib.import_module(f"recbole.model.{path.parent.name}.{path.stem}")
        for name, cls in sorted(vars(module).items()):
            if isinstance(cls, type) and cls.__module__ == module.__name__ and name.lower() == path.stem:
                yield name, functools.partial(build, name)


def torch_geometric() -> Models:
    hidden = {"in_channels": 8, "hidden_channels": 8, "num_layers": 2, "out_channels": 4}
    yield from calls("torch_geometric.nn", plain("GCN GraphSAGE GIN GAT EdgeCNN"), **hidden)
    dimenet = {"hidden_channels": 8, "out_channels": 1, "num_blocks": 2, "num_spherical": 3, "num_radial": 3}
    arguments: dict[str, dict[str, Any]] = {
        "SchNet": {"hidden_channels": 8, "num_filters": 8},
        "DimeNet": {**dimenet, "num_bilinear": 4},
        "DimeNetPlusPlus": {**dimenet, "int_emb_size": 4, "basis_emb_size": 4, "out_emb_channels": 8},
        "ViSNet": {"hidden_channels": 16, "num_heads": 2, "num_layers": 2},
        "AttentiveFP": {**hidden, "edge_dim": 2, "num_timesteps": 2},
        "LightGCN": {"num_nodes": 8, "embedding_dim": 4, "num_layers": 2},
    }
    yield from calls("torch_geometric.nn", arguments)
