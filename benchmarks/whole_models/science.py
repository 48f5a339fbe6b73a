"""Models of molecules, flows and processes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from benchmarks.whole_models.calls import Models, calls, plain


def e3nn() -> Models:
    points: dict[str, Any] = {
        "irreps_in": "4x0e",
        "irreps_hidden": "4x0e + 4x1o",
        "irreps_out": "1x0e",
        "irreps_node_attr": "4x0e",
        "irreps_edge_attr": "1x0e + 1x1o",
        "layers": 2,
        "max_radius": 2.0,
        "number_of_basis": 4,
        "radial_layers": 1,
        "radial_neurons": 8,
        "num_neighbors": 4.0,
        "num_nodes": 5.0,
    }
    yield from calls("e3nn.nn.models.gate_points_2101", {"Network": points})
    simple = {
        "irreps_in": "4x0e",
        "irreps_out": "1x0e",
        "max_radius": 2.0,
        "num_neighbors": 4.0,
        "num_nodes": 5.0,
    }
    yield from calls("e3nn.nn.models.v2106.gate_points_networks", {"SimpleNetwork": simple})


def mace() -> Models:
    def build(cls: str, **more: Any) -> nn.Module:
        import numpy as np
        from e3nn import o3
        from mace import modules

        blocks = modules.interaction_classes
        arguments: dict[str, Any] = {
            "r_max": 4.0,
            "num_bessel": 4,
            "num_polynomial_cutoff": 5,
            "max_ell": 2,
            "interaction_cls": blocks["RealAgnosticResidualInteractionBlock"],
            "interaction_cls_first": blocks[more.pop("first", "RealAgnosticResidualInteractionBlock")],
            "num_interactions": 2,
            "num_elements": 2,
            "hidden_irreps": o3.Irreps("8x0e + 8x1o"),
            "MLP_irreps": o3.Irreps("8x0e"),
            "atomic_energies": np.array([-1.0, -2.0]),
            "avg_num_neighbors": 4.0,
            "atomic_numbers": [1, 6],
            "correlation": 2,
            "gate": torch.nn.functional.silu,
        }
        return getattr(modules, cls)(**{**arguments, **more})

    scale: dict[str, Any] = {"atomic_inter_scale": 0.8, "atomic_inter_shift": 0.1}
    yield "MACE", functools.partial(build, "MACE")
    yield "MACE first", functools.partial(build, "MACE", first="RealAgnosticInteractionBlock")
    yield "ScaleShiftMACE", functools.partial(build, "ScaleShiftMACE", **scale)
    yield (
        "ScaleShiftMACE repulsion",
        functools.partial(build, "ScaleShiftMACE", **scale, pair_repulsion=True, distance_transform="Agnesi"),
    )
    for cls in ("AtomicDipolesMACE", "EnergyDipolesMACE"):
        none = {"atomic_energies": None} if cls == "AtomicDipolesMACE" else {}
        yield cls, functools.partial(build, cls, **none)


def nequip() -> Models:
    from nequip.utils.global_state import set_global_state

    set_global_state()
    common = {
        "seed": 1,
        "model_dtype": "float32",
        "r_max": 4.0,
        "type_names": ["C", "H"],
        "num_layers": 2,
        "num_features": 8,
        "radial_mlp_width": 8,
        "avg_num_neighbors": 4.0,
    }
    energies: dict[str, Any] = {
        "per_type_energy_shifts": {"C": -1.0, "H": -2.0},
        "per_type_energy_scales": {"C": 1.0, "H": 2.0},
    }
    arguments: dict[str, dict[str, Any]] = {
        "NequIPGNNModel": {},
        "NequIPGNNModel energies": energies,
        "NequIPGNNModel trainable": {
            **energies,
            "per_type_energy_shifts_trainable": True,
            "per_type_energy_scales_trainable": True,
            "bessel_trainable": True,
        },
        "NequIPGNNModel edge": {
            "l_max": 2,
            "parity": False,
            "per_edge_type_cutoff": {"C": 3.0, "H": {"C": 3.0, "H": 2.0}},
        },
    }
    yield from calls("nequip.model", arguments, **common)


def schnetpack() -> Models:
    def build(representation: str, trainable: bool, forces: bool, **more: Any) -> nn.Module:
        import schnetpack
        from schnetpack import atomistic, transform
        from schnetpack import nn as blocks

        radial = blocks.GaussianRBF(n_rbf=8, cutoff=4.0, trainable=trainable)
        made = getattr(schnetpack.representation, representation)(
            n_atom_basis=16, n_interactions=2, radial_basis=radial, cutoff_fn=blocks.CosineCutoff(4.0), **more
        )
        heads = [atomistic.Atomwise(n_in=16, output_key="energy")]
        return schnetpack.model.NeuralNetworkPotential(
            made,
            input_modules=[atomistic.PairwiseDistances()],
            output_modules=[*heads, atomistic.Forces(energy_key="energy")] if forces else heads,
            postprocessors=[
                transform.CastTo64(),
                transform.AddOffsets("energy", add_mean=True, add_atomrefs=True),
            ],
        )

    for trainable in (False, True):
        kind = "trainable" if trainable else "fixed"
        yield f"SchNet {kind}", functools.partial(build, "SchNet", trainable, False)
        yield f"PaiNN {kind}", functools.partial(build, "PaiNN", trainable, True)
        yield f"SO3net {kind}", functools.partial(build, "SO3net", trainable, True, lmax=2)
        yield f"FieldSchNet {kind}", functools.partial(build, "FieldSchNet", trainable, True)


def normflows() -> Models:
    def build(kind: str) -> nn.Module:
        import normflows as nf

        flows: list[nn.Module] = []
        for _ in range(4):
            if kind == "RealNVP":
                flows += [nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 8, 2])), nf.flows.Permute(2, "swap")]
                flows += [nf.flows.ActNorm(2)]
            elif kind == "spline":
                flows += [
                    nf.flows.AutoregressiveRationalQuadraticSpline(2, 1, 8),
                    nf.flows.LULinearPermute(2),
                ]
            elif kind == "residual":
                flows += [nf.flows.Residual(nf.nets.LipschitzMLP([2, 8, 2])), nf.flows.ActNorm(2)]
            else:
                flows += [nf.flows.Planar((2,)), nf.flows.Radial((2,))]
        return nf.NormalizingFlow(nf.distributions.DiagGaussian(2), flows)

    for kind in ("RealNVP", "spline", "residual", "planar"):
        yield kind, functools.partial(build, kind)


def nflows() -> Models:
    flow = {"features": 4, "hidden_features": 8, "num_layers": 2, "num_blocks_per_layer": 2}
    arguments: dict[str, dict[str, Any]] = {
        "MaskedAutoregressiveFlow": {},
        "MaskedAutoregressiveFlow norms": {
            "batch_norm_within_layers": True,
            "batch_norm_between_layers": True,
        },
        "MaskedAutoregressiveFlow random": {"use_random_masks": True, "use_residual_blocks": False},
    }
    yield from calls("nflows.flows.autoregressive", arguments, **flow)
    yield from calls(
        "nflows.flows.realnvp",
        {"SimpleRealNVP": {}, "SimpleRealNVP norms": {"batch_norm_between_layers": True}},
        **flow,
    )


def zuko() -> Models:
    names = plain("MAF NSF NCSF NICE RealNVP NAF UNAF CNF GF SOSPF BPF")
    yield from calls("zuko.flows", names, features=3, context=2, hidden_features=(8, 8))
    yield from calls("zuko.mixtures", {"GMM": {"features": 3, "context": 2, "components": 2}})


def pyro() -> Models:
    module = "pyro.distributions.transforms"
    names = "spline affine_autoregressive neural_autoregressive batchnorm planar radial sylvester polynomial"
    names += " block_autoregressive affine_coupling spline_autoregressive spline_coupling householder"
    names += " conditional_planar conditional_radial conditional_householder generalized_channel_permute"
    for name in names.split():
        own: dict[str, Any] = {"input_dim": 4}
        if name.startswith("conditional"):
            own["context_dim"] = 2
        if name == "generalized_channel_permute":
            own = {"channels": 4}
        yield from calls(module, {name: own})
    cevae = {"feature_dim": 4, "latent_dim": 4, "hidden_dim": 8, "num_layers": 2}
    yield from calls("pyro.contrib.cevae", {"CEVAE": cevae})


def botorch() -> Models:
    def build(name: str, **more: Any) -> nn.Module:
        from botorch import models
        from botorch.models.transforms import Normalize, Standardize

        x, y = torch.rand(8, 2, dtype=torch.double), torch.rand(8, 1, dtype=torch.double)
        transforms = {"input_transform": Normalize(2), "outcome_transform": Standardize(1)}
        return getattr(models, name)(x, y, **transforms, **more)

    yield "SingleTaskGP", functools.partial(build, "SingleTaskGP")
    yield (
        "SingleTaskMultiFidelityGP",
        functools.partial(build, "SingleTaskMultiFidelityGP", data_fidelities=[1]),
    )
    yield "MultiTaskGP", functools.partial(build, "MultiTaskGP", task_feature=1)
    yield "MixedSingleTaskGP", functools.partial(build, "MixedSingleTaskGP", cat_dims=[1])
    yield "SingleTaskVariationalGP", functools.partial(build, "SingleTaskVariationalGP")
