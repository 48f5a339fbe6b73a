"""Packages whose source and file part: swaps at run time, other versions, wrapped roots, wrong packages."""

from __future__ import annotations

from tests.support.source_rows import clean, module, one, package

BLOCK = """
class Block(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.tav = Parameter(torch.rand(size))
        self.register_buffer("shin", torch.rand(size))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.alef = Block()
        self.bet = Parameter(torch.rand(3))
        self.register_buffer("gimel", torch.rand(3))
"""
TWO_BLOCKS = BLOCK + "        self.dalet = nn.ModuleList([Block(), Block()])\n"
ONE_MORE = '        self.register_buffer("shin", torch.rand(size))\n'
OPPOSITE = """
class Tables(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.register_buffer("tav", torch.rand(size))
        self.qof = Parameter(torch.rand(size))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = Tables()
        self.shin = Parameter(torch.rand(3))
        self.register_buffer("bet", torch.rand(3))
        self.gimel = Parameter(torch.rand(3))
"""
FROZEN = """
class FrozenNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.register_buffer("weight", torch.rand(size))
        self.register_buffer("bias", torch.rand(size))
        self.register_buffer("running_mean", torch.rand(size))
        self.register_buffer("running_var", torch.rand(size))


class Net(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.conv = nn.Conv1d(size, size, 1)
        self.norm = nn.BatchNorm1d(size)
        self.rest = nn.Sequential(nn.Conv1d(size, size, 1), nn.BatchNorm1d(size), nn.ReLU())
        self.alef = Parameter(torch.rand(size))


def frozen(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            setattr(module, name, FrozenNorm(child.num_features))
        else:
            frozen(child)
    return module
"""


def source(text: str) -> dict[str, str]:
    """The package ``pkg`` with one file, ``model.py``."""
    return {"pkg/__init__.py": "", "pkg/model.py": module(text)}


PACKAGES = (
    # The class says batch norm; what stands there at run time is another class, all of buffers.
    one("frozen_norms", FROZEN, root="pkg.model.frozen(pkg.model.Net())"),
    # It has no statistics of a batch norm's shapes, so it is none, frozen or not.
    one(
        "own_norm",
        """
        class Norm(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.weight = Parameter(torch.rand(size))
                self.bias = Parameter(torch.rand(size))
                self.register_buffer("running_mean", torch.rand(1, size, 1))
                self.register_buffer("running_var", torch.rand(1, size, 1))


        class Net(nn.Module):
            def __init__(self, size=3):
                super().__init__()
                self.alef = Norm(size)
                self.bet = nn.Sequential(Norm(size), nn.ReLU())
        """,
    ),
    one(
        "no_elements",
        """
        class Part(nn.Module):
            def __init__(self):
                super().__init__()
                self.tav = Parameter(torch.rand(0))
                self.register_buffer("shin", torch.rand(0))


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Part()
                self.register_parameter("bet", Parameter(torch.rand(3, 0)))
                self.register_buffer("gimel", torch.rand(0, 3))
        """,
    ),
    # A target network: its parameters are turned into buffers after it was built.
    one(
        "parameters_turned_into_buffers",
        """
        class Head(nn.Module):
            def __init__(self):
                super().__init__()
                self.tav = Parameter(torch.rand(3))
                self.shin = nn.Linear(3, 3)


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.online = Head()
                self.target = Head()
                for module in self.target.modules():
                    for name, value in list(module.named_parameters(recurse=False)):
                        delattr(module, name)
                        module.register_buffer(name, value.detach().clone())
        """,
        beyond="target.tav target.shin.weight target.shin.bias",
    ),
    one(
        "weight_norm",
        """
        from torch.nn.utils import parametrizations, spectral_norm, weight_norm


        class Net(nn.Module):
            def __init__(self, size=3, wrap=weight_norm):
                super().__init__()
                self.alef = weight_norm(nn.Linear(size, size))
                self.bet = nn.Sequential(weight_norm(nn.Conv1d(size, size, 1)), nn.ReLU())
                self.gimel = spectral_norm(nn.Linear(size, size))
                self.dalet = parametrizations.weight_norm(nn.Linear(size, size))
                self.he = parametrizations.spectral_norm(nn.Linear(size, size))
                self.vav = parametrizations.orthogonal(nn.Linear(size, size))
                self.zayin = wrap(nn.Linear(size, size))
                self.het = Parameter(torch.rand(size))
                self.register_buffer("tet", torch.rand(size))
        """,
    ),
    one(
        "own_parametrization",
        """
        from torch.nn.utils import parametrize, prune


        class Positive(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.register_buffer("tav", torch.rand(size))

            def forward(self, value):
                return value.exp() + self.tav

            def right_inverse(self, value):
                return value.log()


        class Net(nn.Module):
            def __init__(self, size=3):
                super().__init__()
                self.alef = nn.Linear(size, size)
                parametrize.register_parametrization(self.alef, "bias", Positive(size), unsafe=True)
                self.bet = prune.l1_unstructured(nn.Linear(size, size), "weight", amount=1)
                self.gimel = Parameter(torch.rand(size))
        """,
        open="alef.parametrizations.bias.0.tav",
    ),
    one(
        "parameter_made_a_buffer_by_a_subclass",
        """
        class Base(nn.Module):
            def __init__(self):
                super().__init__()
                self.tav = Parameter(torch.rand(3))
                self.register_buffer("shin", torch.rand(3))
                self.resh = Parameter(torch.rand(3))


        class Net(Base):
            def __init__(self):
                super().__init__()
                del self.tav
                self.register_buffer("tav", torch.rand(3))
                delattr(self, "shin")
                self.shin = Parameter(torch.rand(3))
        """,
        open="tav shin",
    ),
    one(
        "parameter_made_a_buffer_without_the_base",
        """
        class Base(nn.Module):
            def __init__(self):
                super().__init__()
                self.tav = Parameter(torch.rand(3))
                self.resh = Parameter(torch.rand(3))


        class Fixed(Base):
            def __init__(self):
                nn.Module.__init__(self)
                self.register_buffer("tav", torch.rand(3))


        class Skipped(Base):
            def __init__(self):
                super(Base, self).__init__()
                self.register_buffer("tav", torch.rand(3))


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Base()
                self.bet = Fixed()
                self.gimel = Skipped()
        """,
        open="bet.tav gimel.tav",
    ),
    one(
        "method_replaced_by_a_subclass",
        """
        class Base(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Parameter(torch.rand(3))
                self._table()

            def _table(self):
                self.bet = Parameter(torch.rand(3))


        class Net(Base):
            def _table(self):
                self.register_buffer("bet", torch.rand(3))


        class Other(Base):
            pass


        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.gimel = Net()
                self.dalet = Other()
        """,
        root="pkg.model.Both()",
    ),
    # The file is of a version with one entry more: no class has all of the module.
    package(
        "version_with_an_entry_more",
        "pkg.model.Net()",
        source(BLOCK.replace(ONE_MORE, ONE_MORE + "        self.resh = Parameter(torch.rand(size))\n")),
        read=source(BLOCK),
        open="alef.tav alef.shin",
        unknown="alef.resh",
        fits=None,
    ),
    package(
        "version_with_an_entry_more_in_the_root",
        "pkg.model.Net()",
        source(TWO_BLOCKS + '        self.register_buffer("he", torch.rand(3))\n'),
        read=source(TWO_BLOCKS),
        open="bet gimel alef.tav alef.shin dalet.0.tav dalet.0.shin dalet.1.tav dalet.1.shin",
        unknown="he",
        fits=False,
    ),
    # And of one with an entry less: what is left is still what the class declares.
    package(
        "version_with_an_entry_less",
        "pkg.model.Net()",
        source(TWO_BLOCKS.replace(ONE_MORE, "")),
        read=source(TWO_BLOCKS),
    ),
    package(
        "version_with_a_child_less",
        "pkg.model.Net()",
        source(BLOCK),
        read=source(TWO_BLOCKS),
    ),
    # In the version that is read, the entry has changed its kind: nobody can know.
    package(
        "version_with_another_kind",
        "pkg.model.Net()",
        source(BLOCK),
        read=source(BLOCK.replace(ONE_MORE, "        self.shin = Parameter(torch.rand(size))\n")),
        beyond="alef.shin",
    ),
    one("wrapped_as_module", TWO_BLOCKS, root="nn.DataParallel(pkg.model.Net())"),
    one("wrapped_as_model", TWO_BLOCKS, root='nn.ModuleDict({"model": pkg.model.Net()})'),
    one("wrapped_twice", TWO_BLOCKS, root='nn.DataParallel(nn.ModuleDict({"model": pkg.model.Net()}))'),
    one("wrapped_by_compile", TWO_BLOCKS, root='nn.ModuleDict({"_orig_mod": pkg.model.Net()})'),
    one("wrapped_by_an_average", TWO_BLOCKS, root="torch.optim.swa_utils.AveragedModel(pkg.model.Net())"),
    one("wrapped_in_a_list", TWO_BLOCKS, root="nn.ModuleList([pkg.model.Net(), pkg.model.Net()])"),
    # The root is a class of the user's, around a model of the package: the class claims stay.
    package(
        "own_root_around_the_package",
        "own.Mine()",
        source(TWO_BLOCKS)
        | {
            "own.py": """
            import torch
            from torch import nn

            import pkg.model


            class Mine(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.backbone = pkg.model.Net()
                    self.qof = nn.Parameter(torch.rand(3))
                    self.register_buffer("pe", torch.rand(3))
            """
        },
        read=source(TWO_BLOCKS),
        unknown="qof pe",
        fits=False,
    ),
    # Another package is named, which has the same names with the other kinds, and no class that fits.
    package(
        "wrong_package",
        "real_lib.Net()",
        {"real_lib/__init__.py": module(TWO_BLOCKS)}
        | {"pkg/__init__.py": "", "pkg/model.py": module(OPPOSITE)},
        read={"pkg/__init__.py": "", "pkg/model.py": module(OPPOSITE)},
        fits=False,
        claims=False,
        open="*",
    ),
    package(
        "empty_package",
        "real_lib.Net()",
        {"real_lib/__init__.py": module(TWO_BLOCKS), "pkg/__init__.py": ""},
        read={"pkg/__init__.py": ""},
        fits=False,
        claims=False,
        open="*",
    ),
    package(
        "functions_alone",
        "real_lib.Net()",
        {"real_lib/__init__.py": module(TWO_BLOCKS)}
        | {"pkg/__init__.py": 'def build():\n    """Makes nothing."""\n\n\nclass Config:\n    tav = 3\n'},
        read={"pkg/__init__.py": 'def build():\n    """Makes nothing."""\n\n\nclass Config:\n    tav = 3\n'},
        fits=False,
        claims=False,
        open="*",
    ),
    # Two roots fit, which say the same of all but one name.
    one(
        "two_roots",
        clean(BLOCK)
        + """

class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        self.alef = Block()
        self.bet = Parameter(torch.rand(3))
        self.gimel = Parameter(torch.rand(3))
""",
        unknown="gimel",
    ),
)
