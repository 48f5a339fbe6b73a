"""Packages of several files: aliases, re-exports, stars, cycles, and bases that lie elsewhere."""

from __future__ import annotations

from tests.support.source_rows import HEAD, net, one, package

SCALES = """
import torch
from torch import nn


class Scale(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.tav = nn.Parameter(torch.rand(size))
        self.register_buffer("shin", torch.rand(size))
"""
USES = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.alef = Scale()
        self.bet = nn.Parameter(torch.rand(3))
        self.register_buffer("gimel", torch.rand(3))
"""
IMPORTS = "import torch\nfrom torch import nn\n\n"


def using(line: str, text: str = USES) -> str:
    """A file that gets Scale by ``line`` before ``text``."""
    return f"{IMPORTS}{line}\n\n{text}"


PACKAGES = (
    package(
        "aliases",
        "pkg.model.Net()",
        {
            "pkg/__init__.py": "",
            "pkg/model.py": """
            import torch as T
            import torch.nn as N
            import torch.nn.parameter
            from torch import nn as layers
            from torch.nn import Buffer as B, Module as Base, Parameter as P
            from torch.nn.modules.container import Sequential as Chain
            from torch.nn.modules.linear import Linear as L

            Weight = P
            Norm = N.LayerNorm
            Own: type = Base
            first, Second = None, layers.ModuleList


            class Net(Own):
                def __init__(self):
                    super(Net, self).__init__()
                    self.alef = P(T.rand(3))
                    self.bet = Weight(T.rand(3))
                    self.gimel = torch.nn.parameter.Parameter(T.rand(3))
                    self.dalet = B(T.rand(3))
                    self.he = L(3, 3)
                    self.vav = Norm(3)
                    self.zayin = Chain(L(3, 3), layers.BatchNorm1d(3))
                    self.het = Second([N.PReLU()])
                    self.tet = T.nn.Bilinear(2, 2, 2)
                    self.register_buffer("yod", T.rand(3))
            """,
        },
    ),
    package(
        "re_exports",
        "pkg.Net()",
        {
            "pkg/__init__.py": "from pkg.model import Net\nfrom .scales import Scale as Scale",
            "pkg/scales/__init__.py": "from .plain import Scale\nfrom . import plain as other",
            "pkg/scales/plain.py": SCALES,
            "pkg/model.py": using(
                "import pkg\nimport pkg.scales\nfrom pkg.scales import Scale",
                USES
                + "        self.dalet = pkg.scales.Scale()\n        self.he = pkg.scales.other.Scale()\n",
            ),
        },
    ),
    package(
        "stars",
        "pkg.model.Net()",
        {
            "pkg/__init__.py": "from .scales import *",
            "pkg/scales.py": SCALES + "\n\n_hidden = Scale\n",
            "pkg/more.py": 'from pkg import *\n\n__all__ = ["Scale", "nn", "torch"]\n',
            "pkg/model.py": f"from pkg.more import *\n\n{USES}",
        },
    ),
    package(
        "relative",
        "pkg.models.small.net.Net()",
        {
            "pkg/__init__.py": "",
            "pkg/layers/__init__.py": "",
            "pkg/layers/scales.py": SCALES,
            "pkg/models/__init__.py": "",
            "pkg/models/base.py": HEAD
            + """
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.het = Parameter(torch.rand(3))
""",
            "pkg/models/small/__init__.py": "",
            "pkg/models/small/net.py": using(
                "from ...layers.scales import Scale\nfrom ...layers import scales\nfrom .. import base\n",
                USES.replace("nn.Module", "base.Base") + "        self.dalet = scales.Scale()\n",
            ),
        },
    ),
    package(
        "cyclic_imports",
        "pkg.model.Net()",
        {
            "pkg/__init__.py": "from . import model, scales",
            "pkg/scales.py": f"from . import model\n{SCALES}",
            "pkg/model.py": using(
                "from . import scales\n",
                USES.replace("Scale()", "scales.Scale()")
                + "\n    def other(self):\n        from pkg import Net\n\n        return Net()\n",
            )
            + "\n\nfrom .scales import model as again\nfrom pkg.model import again as again\n",
        },
    ),
    # By their names the bases go in a circle: each stands for an earlier class of that name.
    one(
        "cyclic_bases",
        """
        class First(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Parameter(torch.rand(3))


        class Second(First):
            def __init__(self):
                super().__init__()
                self.register_buffer("bet", torch.rand(3))


        class First(Second):
            def __init__(self):
                super().__init__()
                self.gimel = Parameter(torch.rand(3))


        class Net(First):
            pass


        class Net(Net):
            def __init__(self):
                super().__init__()
                self.register_buffer("dalet", torch.rand(3))
        """,
        open="*",
        fits=None,
    ),
    package(
        "base_elsewhere",
        "pkg.model.Net()",
        {
            "base_lib/__init__.py": "from base_lib.deep import Base",
            "base_lib/deep.py": """
            import torch
            from torch import nn

            from base_lib.parts import Part


            class Base(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.tav = nn.Parameter(torch.rand(3))
                    self.register_buffer("shin", torch.rand(3))
                    self.register_buffer("resh", torch.rand(3), persistent=False)
                    self.part = Part()

                def keep(self, name):
                    self.register_buffer(name, torch.rand(3))
            """,
            "base_lib/parts.py": SCALES.replace("Scale", "Part"),
            "pkg/__init__.py": "",
            "pkg/model.py": """
            import base_lib
            import torch
            from base_lib.parts import Part
            from torch import nn


            class Net(base_lib.Base):
                def __init__(self):
                    super().__init__()
                    self.alef = nn.Parameter(torch.rand(3))
                    self.keep("bet")
                    self.gimel = Part()
            """,
        },
        named=("pkg", "base_lib"),
    ),
    # A base that cannot be read: what the class itself says still holds.
    package(
        "base_that_is_not_there",
        "pkg.model.Net()",
        {
            "gone_lib.py": """
            import torch
            from torch import nn


            class Base(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.register_buffer("tav", torch.rand(3))
            """,
            "pkg/__init__.py": "",
            "pkg/model.py": """
            import torch
            from gone_lib import Base
            from torch import nn


            class Part(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.register_buffer("bet", torch.rand(3))


            class Net(Base):
                def __init__(self):
                    super().__init__()
                    self.alef = nn.Parameter(torch.rand(3))
                    self.part = Part()
            """,
        },
        read={
            "pkg/__init__.py": "",
            "pkg/model.py": """
            import torch
            from gone_lib import Base
            from torch import nn


            class Part(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.register_buffer("bet", torch.rand(3))


            class Net(Base):
                def __init__(self):
                    super().__init__()
                    self.alef = nn.Parameter(torch.rand(3))
                    self.part = Part()
            """,
        },
        open="*",
        fits=None,
    ),
    package(
        "conditional_imports",
        "pkg.model.Net()",
        {
            "pkg/__init__.py": "",
            "pkg/scales.py": SCALES,
            "pkg/model.py": """
            from __future__ import annotations

            import typing
            from typing import TYPE_CHECKING

            import torch
            from torch import nn

            try:
                from fast_scales_that_nobody_has import Scale
            except ImportError:
                from pkg.scales import Scale

            if TYPE_CHECKING:
                from pkg.model import Net as Other

            if typing.TYPE_CHECKING or hasattr(torch, "never"):

                class Part(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.qof = nn.Parameter(torch.rand(3))

            else:

                class Part(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.register_buffer("qof", torch.rand(3))


            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.alef = Scale()
                    self.bet = Part()
                    self.gimel = nn.Parameter(torch.rand(3))
            """,
        },
        open="bet.qof",
        fits=None,
    ),
    one(
        "nested_and_generic_classes",
        """
        import abc
        from typing import Generic, TypeVar

        Size = TypeVar("Size")


        class Mixin:
            def _mix(self):
                self.register_buffer("shin", torch.rand(3))


        class Meta(abc.ABCMeta):
            pass


        class Base(nn.Module, Generic[Size], metaclass=Meta):
            def __init__(self):
                super().__init__()
                self.tav = Parameter(torch.rand(3))


        class Net(Mixin, Base[int]):
            class Inner(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.register_buffer("resh", torch.rand(3))

            def __init__(self):
                super().__init__()
                self._mix()
                self.alef = self.Inner()
                self.bet = Net.Inner()
        """,
    ),
    one(
        "classes_of_functions",
        """
        def made(base):
            class Made(base):
                def __init__(self):
                    super().__init__()
                    self.register_buffer("tav", torch.rand(3))

            return Made


        def decorated(cls):
            return cls


        Part = made(nn.Module)


        @decorated
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Part()
                self.bet = Parameter(torch.rand(3))
        """,
        open="alef.tav",
        fits=None,
    ),
    # Two classes of one name, which say the opposite: the import tells which is meant.
    package(
        "same_name_twice",
        "pkg.model.Net()",
        {
            "pkg/__init__.py": "",
            "pkg/learnt.py": SCALES,
            "pkg/fixed.py": """
            import torch
            from torch import nn


            class Scale(nn.Module):
                def __init__(self, size=3):
                    super().__init__()
                    self.shin = nn.Parameter(torch.rand(size))
                    self.register_buffer("tav", torch.rand(size))
            """,
            "pkg/model.py": using(
                "from pkg import fixed\nfrom pkg.learnt import Scale\nfrom .fixed import Scale as Other",
                USES + "        self.dalet = Other()\n        self.he = fixed.Scale()\n",
            ),
        },
    ),
    # The package has its own classes of torch's names.
    one(
        "names_of_torch",
        """
        class Buffer(nn.Module):
            def __init__(self, size=3):
                super().__init__()
                self.tav = nn.Parameter(torch.rand(size))


        class Parameter(nn.Module):
            def __init__(self, size=3):
                super().__init__()
                self.register_buffer("tav", torch.rand(size))


        class Linear(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.register_buffer("weight", torch.rand(size))
                self.bias = nn.Parameter(torch.rand(size))


        class ModuleList(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.register_buffer("qof", torch.rand(size))


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Buffer()
                self.bet = Parameter()
                self.gimel = Linear(3)
                self.dalet = nn.Linear(3, 3)
                self.he = ModuleList(3)
        """,
    ),
    # What is beside the model cannot be parsed: it is passed over, and so is what the encoding line says.
    package(
        "broken_files_beside",
        "pkg.model.Net()",
        {
            "pkg/__init__.py": "",
            "pkg/scales.py": SCALES.replace("import torch\n", "# vim: tw=80 ß\nimport torch\n", 1),
            "pkg/model.py": "\ufeff" + using("from pkg.scales import Scale"),
        },
        read={
            "pkg/__init__.py": "",
            "pkg/scales.py": SCALES.replace("import torch\n", "# vim: tw=80 ß\nimport torch\n", 1),
            "pkg/model.py": "\ufeff" + using("from pkg.scales import Scale"),
            "pkg/old.py": 'print "Python 2"\n',
            "pkg/zeros.py": "class Net:\n    pass\0\n",
            "pkg/codec.py": "# -*- coding: no-such-codec -*-\nclass Scale: pass\n",
            "pkg/deep.py": "x = " + "(" * 2000 + ")" * 2000 + "\n",
            "pkg/escapes.py": "x = '\\d'\ny = 1 is 1\n",
        },
    ),
    package(
        "one_file",
        "model.Net()",
        {"model.py": SCALES + "\n\n" + USES.strip() + "\n"},
        named=("model.py",),
    ),
    # A folder without __init__.py, and names that come by a module's __getattr__.
    package(
        "lazy_package",
        "pkg.parts.model.Net()",
        {
            "pkg/parts/__init__.py": """
            import importlib


            def __getattr__(name):
                if name == "Scale":
                    return importlib.import_module("pkg.parts.scales").Scale
                raise AttributeError(name)
            """,
            "pkg/parts/scales.py": SCALES,
            "pkg/parts/model.py": using("from pkg.parts import Scale"),
        },
    ),
    net(
        "imports_in_functions",
        """
        from torch.nn import Parameter as P, Buffer as Kept
        import torch.nn.modules.linear as linear

        self.alef = P(torch.rand(size))
        self.bet = Kept(torch.rand(size))
        self.gimel = linear.Linear(size, size)
        """,
    ),
)
