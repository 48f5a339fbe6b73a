"""Packages that write the values of entries in every way that source has for it."""

from __future__ import annotations

from tests.support.source_rows import net, one, package

PACKAGES = (
    net(
        "assigned",
        """
        self.alef = Parameter(torch.rand(size))
        self.bet = nn.UninitializedParameter()
        self.bet.materialize((size,))
        self.gimel = nn.Buffer(torch.rand(size))
        self.dalet = nn.Buffer(torch.rand(size), persistent=False)
        self.he = nn.ParameterList([torch.rand(size), torch.rand(size)])
        self.vav = nn.ParameterDict({"tav": torch.rand(size), "shin": torch.rand(size)})
        self.zayin = nn.UninitializedBuffer()
        self.zayin.materialize((size,))
        self.het: nn.Parameter = nn.parameter.Parameter(torch.rand(size))
        self.tet = torch.nn.parameter.Buffer(torch.rand(size), persistent=True)
        self.yod = self.kaf = Parameter(torch.rand(size))
        self.lamed = torch.rand(size)
        if (mem := Parameter(torch.rand(size))) is not None:
            self.mem = mem
        """,
    ),
    one(
        "derived_from_parameter",
        """
        class Weight(nn.Parameter):
            pass


        class Scale(Weight):
            def __new__(cls, size, gain=1.0):
                return super().__new__(cls, gain * torch.rand(size))


        class Shift(nn.Buffer):
            def __new__(cls, size):
                return nn.Buffer(torch.rand(size))


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Weight(torch.rand(3))
                self.bet = Scale(3, gain=2.0)
                self.gimel = Shift(3)
                self.register_parameter("dalet", Scale(3))
                self.register_buffer("he", torch.rand(3))
        """,
        open="gimel",
        fits=None,
    ),
    net(
        "local_variables",
        """
        first = Parameter(torch.rand(size))
        self.alef = first
        second = third = nn.Parameter(torch.rand(size))
        self.bet = third
        values = torch.rand(size)
        values = Parameter(values)
        self.gimel = values
        table = torch.rand(size)
        self.register_buffer("dalet", table)
        kept = nn.Buffer(table)
        self.he = kept
        """,
    ),
    net(
        "conditional_values",
        """
        self.alef = Parameter(torch.rand(size)) if flag else None
        self.bet = Parameter(torch.rand(size)) if size > 4 else Parameter(torch.rand(2))
        if flag:
            value = Parameter(torch.rand(size))
        else:
            value = None
        self.gimel = value
        self.register_parameter("dalet", Parameter(torch.rand(size)) if flag else None)
        self.register_buffer("he", torch.rand(size) if flag else None)
        self.vav = flag and Parameter(torch.ones(1)) or None
        """,
        open="vav",
        fits=None,
    ),
    net(
        "tuples",
        """
        self.alef, self.bet = Parameter(torch.rand(size)), nn.Buffer(torch.rand(size))
        gimel, dalet = (nn.Buffer(torch.rand(size)), nn.Parameter(torch.rand(size)))
        self.gimel = gimel
        self.dalet = dalet
        (self.he, name), self.vav = (Parameter(torch.rand(size)), "tav"), Parameter(torch.rand(size))
        self.register_buffer(name, torch.rand(size))
        """,
    ),
    net(
        "methods_of_values",
        """
        self.alef = Parameter(torch.rand(size)).requires_grad_()
        self.bet = Parameter(torch.rand(size)).to(torch.float32).requires_grad_(False)
        self.gimel = Parameter(torch.rand(size), requires_grad=flag)
        value = Parameter(torch.empty(size)).cpu()
        self.dalet = value
        self.he = nn.init.normal_(Parameter(torch.empty(size)))
        self.register_buffer("vav", torch.rand(size).to(torch.float32).requires_grad_(False))
        """,
        open="he",
        fits=None,
    ),
    package(
        "functions",
        "pkg.model.Net()",
        {
            "pkg/__init__.py": "",
            "pkg/making.py": """
            import torch
            from torch import nn


            def weight(size):
                return nn.Parameter(torch.rand(size))


            def scaled(size, gain=2.0):
                value = gain * torch.rand(size)
                made = nn.Parameter(value)
                return made


            def either(size, small):
                if small:
                    return weight(1)
                return scaled(size)


            def pair(size):
                return nn.Parameter(torch.rand(size)), nn.Buffer(torch.rand(size))
            """,
            "pkg/model.py": """
            import torch
            from torch import nn

            from pkg import making
            from pkg.making import either, scaled as big, weight


            class Net(nn.Module):
                def __init__(self, size=3):
                    super().__init__()
                    self.alef = weight(size)
                    self.bet = big(size)
                    self.gimel = making.either(size, False)
                    self.dalet = self._own(size)
                    self.he = self._static(size)
                    self.register_parameter("vav", weight(size))
                    self.register_buffer("zayin", torch.rand(size))
                    self.het, self.tet = making.pair(size)

                def _own(self, size):
                    return either(size, True)

                @staticmethod
                def _static(size):
                    return nn.Buffer(torch.rand(size))
            """,
        },
        open="het tet",
        fits=None,
    ),
    # A Parameter in _buffers is a buffer: what registers an entry decides, not what it is made of.
    net(
        "registered_as_the_other",
        """
        self.register_buffer("alef", Parameter(torch.rand(size)))
        value = Parameter(torch.rand(size))
        self.register_buffer("bet", value)
        self.gimel = Parameter(torch.rand(size))
        """,
    ),
    # A name that is registered as None keeps its kind, whatever tensor it gets later.
    net(
        "filled_later",
        """
        self.register_buffer("alef", None)
        self.register_parameter("bet", None)
        self.register_buffer("gimel", None)
        self.register_buffer("dalet", None, persistent=False)
        self.register_buffer("he", None, persistent=False)
        self._fill(size)
        """,
        after="""
        def _fill(self, size):
            self.alef = torch.rand(size)
            self.bet = nn.Parameter(torch.rand(size))
            self.dalet = torch.rand(size)
        """,
        possible="dalet he",
    ),
    one(
        "in_methods",
        """
        class Base(nn.Module):
            def __init__(self):
                super().__init__()
                self._build()

            def _build(self):
                self.register_buffer("alef", torch.rand(3))
                self._more()

            def _more(self):
                self.bet = Parameter(torch.rand(3))


        class Net(Base):
            def _more(self):
                super()._more()
                self.register_parameter("gimel", Parameter(torch.rand(3)))

            def attach(self):
                self.register_buffer("dalet", torch.rand(3))
                return self


        def built():
            net = Net()
            net.attach()
            return net
        """,
        root="pkg.model.built()",
    ),
    one(
        "methods_that_call_themselves",
        """
        class Net(nn.Module):
            def __init__(self, depth=3):
                super().__init__()
                self._down(depth)

            def _down(self, depth):
                if depth:
                    self.register_buffer(f"alef_{depth}", torch.rand(3))
                    self._up(depth)

            def _up(self, depth):
                self.register_parameter(f"bet_{depth}", Parameter(torch.rand(3)))
                self._down(depth - 1)
        """,
    ),
    net(
        "other_names_for_self",
        """
        super().register_buffer("alef", torch.rand(size))
        nn.Module.register_buffer(self, "bet", torch.rand(size))
        me = self
        me.register_parameter("gimel", Parameter(torch.rand(size)))
        me.dalet = Parameter(torch.rand(size))
        self._buffers["he"] = torch.rand(size)
        self._parameters["vav"] = Parameter(torch.rand(size))
        """,
        open="*",
        fits=None,
    ),
    # Only what torch.nn.Module sees is registered.
    net(
        "not_registered",
        """
        self.__dict__["alef"] = Parameter(torch.rand(size))
        object.__setattr__(self, "bet", Parameter(torch.rand(size)))
        self.gimel = [Parameter(torch.rand(size))]
        self.dalet = torch.rand(size)
        self.he = Parameter(torch.rand(size)).detach()
        self.vav = Parameter(torch.rand(size)) * 2
        self.zayin = Parameter(torch.rand(size))
        self.register_buffer("het", torch.rand(size))
        """,
        open="*",
        fits=None,
    ),
    net(
        "own_register_buffer",
        """
        self.register_buffer("alef", torch.rand(size))
        self.gimel = Parameter(torch.rand(size))
        """,
        after="""
        def register_buffer(self, name, value, persistent=True):
            super().register_buffer(f"of_{name}", value, persistent)
        """,
        open="*",
        fits=None,
    ),
    # What somebody else registers on a module speaks for the name, not for the class.
    one(
        "registered_from_outside",
        """
        def remember(module, value):
            module.register_buffer("alef", value)


        class Inner(nn.Module):
            def __init__(self):
                super().__init__()
                self.bet = Parameter(torch.rand(3))
                remember(self, torch.rand(3))


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = Inner()
                self.gimel = nn.Module()
                self.gimel.register_buffer("dalet", torch.rand(3))
                self.gimel.he = Parameter(torch.rand(3))
                self.vav = Parameter(torch.rand(3))
        """,
        open="inner.alef inner.bet gimel.dalet gimel.he",
    ),
    # Another class of the package registers the same names, as the other kind.
    one(
        "registered_from_outside_and_contested",
        """
        class Other(nn.Module):
            def __init__(self):
                super().__init__()
                self.dalet = Parameter(torch.rand(3))
                self.shin = Parameter(torch.rand(3))


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.gimel = nn.Module()
                self.gimel.register_buffer("dalet", torch.rand(3))
                self.gimel.register_buffer("tav", torch.rand(3))
                self.vav = Parameter(torch.rand(3))
        """,
        unknown="gimel.dalet",
        open="gimel.tav",
        fits=None,
    ),
)
