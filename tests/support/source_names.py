"""Packages that write the names of entries in every way that source has for it."""

from __future__ import annotations

from tests.support.source_rows import net, one

PACKAGES = (
    net(
        "constants",
        """
        self.register_buffer("alef", torch.rand(size))
        self.register_parameter("bet", Parameter(torch.rand(size)))
        self.register_buffer(name="gimel", tensor=torch.rand(size))
        self.register_parameter(param=Parameter(torch.rand(size)), name="dalet")
        self.register_buffer(HE, torch.rand(size))
        self.register_buffer(self.VAV, torch.rand(size))
        self.register_parameter(Net.ZAYIN, Parameter(torch.rand(size)))
        self.register_buffer("he" "t", torch.rand(size), True)
        """,
        before='HE = "he"',
        after='VAV = "vav"\nZAYIN = "zayin"',
    ),
    net(
        "f_strings",
        """
        for number in range(size):
            self.register_buffer(f"alef_{number}", torch.rand(size))
            self.register_parameter(f"bet{number:02d}", Parameter(torch.rand(size)))
        for side in ("left", "right"):
            self.register_buffer(f"gimel_{side}", torch.rand(size))
            self.register_parameter(f"{side}_dalet", Parameter(torch.rand(size)))
        """,
    ),
    net(
        "percent",
        """
        for number in range(size):
            self.register_buffer("alef_%d" % number, torch.rand(size))
            self.register_parameter("bet_%02d_%s" % (number, "tav"), Parameter(torch.rand(size)))
        for side in ["left", "right"]:
            self.register_buffer("gimel_%s" % side, torch.rand(size))
            self.register_parameter("dalet_%(side)s" % {"side": side}, Parameter(torch.rand(size)))
        """,
    ),
    net(
        "plus",
        """
        prefix = "alef"
        self.register_buffer(prefix + "_bet", torch.rand(size))
        self.register_parameter("gimel_" + str(size), Parameter(torch.rand(size)))
        for side in ("left", "right"):
            name = prefix + "_" + side
            self.register_buffer(name, torch.rand(size))
        name = "dalet"
        name += "_tav"
        self.register_parameter(name, Parameter(torch.rand(size)))
        """,
    ),
    net(
        "format",
        """
        for number in range(size):
            self.register_buffer("alef_{}".format(number), torch.rand(size))
            self.register_parameter("{0}_{1}".format("bet", number), Parameter(torch.rand(size)))
        for side in ("left", "right"):
            self.register_buffer("gimel_{side}_{}".format("tav", side=side), torch.rand(size))
            self.register_parameter("dalet_{:s}".format(side), Parameter(torch.rand(size)))
        """,
    ),
    net(
        "loop_over_constants",
        """
        for name in ["alef", "bet"]:
            self.register_buffer(name, torch.rand(size))
        for name in LETTERS:
            self.register_parameter(name, Parameter(torch.rand(size)))
        for name in self.MORE + ("zayin",):
            self.register_buffer(name, torch.rand(size))
        for name in sorted({"het", "tet"}):
            self.register_parameter(name, Parameter(torch.rand(size)))
        letters = ("yod", "kaf")
        for name in letters:
            self.register_buffer(name, torch.rand(size))
        [self.register_parameter(name, Parameter(torch.rand(size))) for name in ("lamed", "mem")]
        """,
        before='LETTERS = ["gimel", "dalet"]',
        after='MORE = ("he", "vav")',
    ),
    net(
        "loop_over_pairs",
        """
        for name, value in zip(("alef", "bet"), (torch.rand(size), torch.rand(size))):
            self.register_buffer(name, value)
        for number, name in enumerate(["gimel", "dalet"]):
            self.register_parameter(f"{name}_{number}", Parameter(torch.rand(size)))
        for name, value in [("he", torch.rand(size)), ("vav", torch.rand(size))]:
            self.register_buffer(name, value)
        for number, (name, value) in enumerate(zip(("zayin", "het"), PAIR), start=1):
            self.register_parameter(name, Parameter(value))
        """,
        before="PAIR = [torch.rand(3), torch.rand(3)]",
    ),
    net(
        "loop_over_dict",
        """
        for name, value in {"alef": torch.rand(size), "bet": torch.rand(size)}.items():
            self.register_buffer(name, value)
        values = {"gimel": torch.rand(size), "dalet": torch.rand(size)}
        for name, value in values.items():
            self.register_parameter(name, Parameter(value))
        for name in dict(he=1, vav=2):
            self.register_buffer(name, torch.rand(size))
        for name in TABLE.keys():
            self.register_parameter(name, Parameter(torch.rand(size)))
        more = {}
        more["het"] = torch.rand(size)
        for name, value in more.items():
            self.register_buffer(name, value)
        """,
        before='TABLE = {"zayin": 3}',
        open="het",
    ),
    net(
        "names_by_condition",
        """
        name = "alef" if flag else "bet"
        self.register_buffer(name, torch.rand(size))
        if flag:
            other = "gimel"
        else:
            other = "dalet"
        self.register_parameter(other, Parameter(torch.rand(size)))
        """,
    ),
    one(
        "helper_methods",
        """
        class Base(nn.Module):
            def __init__(self):
                super().__init__()
                self._table("alef", torch.rand(3))

            def _table(self, name, value):
                self.register_buffer(name, value)

            def _weight(self, size, name="bet", suffix=""):
                setattr(self, name + suffix, Parameter(torch.rand(size)))

            def _pair(self, name):
                self._table(f"{name}_left", torch.rand(3))
                self._table(value=torch.rand(3), name=f"{name}_right")


        class Middle(Base):
            pass


        class Net(Middle):
            def __init__(self):
                super().__init__()
                self._weight(3)
                self._weight(3, "gimel")
                self._weight(3, suffix="_tav")
                self._pair("dalet")
                for name in ("he", "vav"):
                    self._table(name, torch.rand(3))
        """,
    ),
    net(
        "helper_functions",
        """
        def remember(name, value):
            self.register_buffer(name, value)

        remember("alef", torch.rand(size))
        learn = lambda name: self.register_parameter(name, Parameter(torch.rand(size)))
        learn("bet")
        to_torch = functools.partial(torch.tensor, dtype=torch.float32)
        register = functools.partial(self.register_buffer, persistent=True)
        register("gimel", to_torch([1.0, 2.0]))
        same = self.register_buffer
        same("dalet", torch.rand(size))
        away = functools.partial(self.register_buffer, persistent=False)
        away("he", to_torch([1.0, 2.0]))
        """,
        before="import functools",
    ),
    # As denoising diffusion models have it: the name is the argument of a nested function.
    net(
        "ddpm",
        """
        betas = torch.linspace(0.1, 0.2, size)
        register = lambda name, val: self.register_buffer(name, val.to(torch.float32))
        register("alef", betas)
        register("bet_cumprod", torch.cumprod(1.0 - betas, dim=0))
        self.gimel = nn.Parameter(torch.full((size,), 0.5))
        """,
    ),
    net(
        "set_attribute",
        """
        setattr(self, "alef", Parameter(torch.rand(size)))
        for number in range(size):
            setattr(self, f"bet_{number}", Parameter(torch.rand(size)))
        for name in ("gimel", "dalet"):
            setattr(self, name, nn.Linear(size, size))
        self.__setattr__("he", Parameter(torch.rand(size)))
        """,
        open="he",
    ),
    net(
        "add_module",
        """
        self.add_module("alef", nn.Linear(size, size))
        self.register_module("bet", nn.BatchNorm1d(size))
        for number in range(size):
            self.add_module(f"gimel_{number}", Scale(size))
        self.add_module(module=Shift(size), name="dalet")
        """,
        before="""
        class Scale(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.register_parameter("tav", Parameter(torch.rand(size)))


        class Shift(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.register_buffer("tav", torch.rand(size))
        """,
    ),
    # Every pattern is wild: the source has no more than a hint.
    one(
        "wild_names",
        """
        class Bag(nn.Module):
            def __init__(self, names):
                super().__init__()
                for name in names:
                    self.register_buffer(name, torch.rand(3))


        class Net(nn.Module):
            def __init__(self, names=("alef", "bet")):
                super().__init__()
                self.bag = Bag(names)
                self.gimel = Parameter(torch.rand(3))
        """,
        open="bag.alef bag.bet",
    ),
    net(
        "computed_names",
        """
        self.gimel = Parameter(torch.rand(size))
        for name in ("al.ef", "b.et"):
            self.register_buffer(name.replace(".", "_"), torch.rand(size))
        self.register_buffer("_".join(("dalet", "he")), torch.rand(size))
        self.register_parameter("VAV".lower(), Parameter(torch.rand(size)))
        """,
        open="*",
        fits=None,
    ),
    # What a name has of globs and patterns stands for itself.
    net(
        "hostile_names",
        r"""
        self.register_parameter("zz[0-9]", Parameter(torch.rand(size)))
        self.register_buffer("zz7", torch.rand(size))
        self.register_parameter("al*", Parameter(torch.rand(size)))
        self.register_buffer("alef", torch.rand(size))
        self.register_parameter("b#t", Parameter(torch.rand(size)))
        self.register_buffer("b1t", torch.rand(size))
        self.register_parameter("{}", Parameter(torch.rand(size)))
        self.register_buffer("%s", torch.rand(size))
        self.register_parameter("gi\x1b[31mmel", Parameter(torch.rand(size)))
        self.register_buffer("da?et", torch.rand(size))
        self.register_parameter("dalet", Parameter(torch.rand(size)))
        self.register_buffer("\u05d0", torch.rand(size))
        self.register_buffer("with blank", torch.rand(size))
        """,
    ),
    # An ever longer name: a resolver that follows each assignment to all others never ends.
    net(
        "growing_names",
        """
        name = "alef"
        other = "bet"
        for first in range(size):
            name = name + "_x"
            for second in range(size):
                name = name + "y" if second else other + "z"
                other = other + name[:1]
                name = f"{name}{other[:1]}"
                for third in ("a", "b"):
                    other = name[:2] + third + other[:2]
                    name = other[:4] + name[:4]
                    name = name + other if len(name) < 3 else name
                    name, other = other + "v", name + "w"
        self.register_buffer(name, torch.rand(size))
        self.gimel = Parameter(torch.rand(size))
        self.register_buffer("dalet", torch.rand(size))
        """,
        open="*",
        fits=None,
    ),
    # More names than any list may have; the model has six of them.
    net(
        "too_many_names",
        """
        letters = tuple("abcdef")
        for first in letters:
            for second in letters:
                for third in letters:
                    for fourth in letters:
                        for fifth in letters:
                            if first == second == third == fourth == fifth:
                                name = f"q{first}{second}{third}{fourth}{fifth}"
                                self.register_buffer(name, torch.rand(size))
        self.gimel = Parameter(torch.rand(size))
        """,
        open="*",
        fits=None,
    ),
)
