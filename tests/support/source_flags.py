"""Packages whose arguments decide on kinds, and buffers that are not persistent."""

from __future__ import annotations

from typing import Any

from tests.support.source_rows import Package, clean, net, one

SCALE = """
class Scale(nn.Module):
    def __init__(self, learnable=True, size=3):
        super().__init__()
        if learnable:
            self.tav = Parameter(torch.rand(size))
        else:
            self.register_buffer("tav", torch.rand(size))
        self.shin = Parameter(torch.rand(size))


"""


def scales(name: str, text: str, **more: Any) -> Package:
    """A package with a class whose ``tav`` is of the kind that its first argument says, before ``text``."""
    return one(name, clean(SCALE) + clean(text), **more)


PACKAGES = (
    scales("flag_of_the_root", "", root="pkg.model.Scale(False)", unknown="tav"),
    scales("flag_of_the_root_as_it_is", "", root="pkg.model.Scale()", unknown="tav"),
    scales(
        "flag_is_a_constant",
        """
        FIXED = False


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Scale(True)
                self.bet = Scale(False)
                self.gimel = Scale(size=4, learnable=False)
                self.dalet = Scale()
                self.he = nn.ModuleList([Scale(False) for _ in range(2)])
                self.vav = nn.Sequential(Scale(), Scale(learnable=False))
                self.zayin = Scale(0)
                self.het = Scale(FIXED)
        """,
        open="het.tav zayin.tav",
    ),
    scales(
        "flag_is_passed_on",
        """
        class Net(nn.Module):
            def __init__(self, flag=False, options=None, **more):
                super().__init__()
                self.alef = Scale(flag)
                self.bet = Scale(learnable=not flag)
                self.gimel = Scale(**(options or {"learnable": False}))
                self.dalet = Scale(*more.get("arguments", [False]))
                self.he = nn.ModuleList([Scale(number == 0) for number in range(2)])
        """,
        unknown="alef.tav bet.tav gimel.tav dalet.tav he.0.tav he.1.tav",
    ),
    scales(
        "flag_through_two_calls",
        """
        class Pair(nn.Module):
            def __init__(self, learnable, size=3):
                super().__init__()
                self.resh = Scale(learnable, size)
                self.qof = Scale(learnable=False)


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Pair(False)
                self.bet = Pair(learnable=True)
        """,
        open="alef.resh.tav bet.resh.tav",
    ),
    scales(
        "flag_of_a_base",
        """
        class Fixed(Scale):
            def __init__(self, size=3):
                super().__init__(learnable=False, size=size)


        class Learnt(Scale):
            def __init__(self):
                super(Learnt, self).__init__(True)


        class Same(Scale):
            pass


        class Explicit(Scale):
            def __init__(self):
                Scale.__init__(self, False)


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Fixed()
                self.bet = Learnt()
                self.gimel = Same(False)
                self.dalet = Same()
                self.he = Explicit()
        """,
        open="he.tav",
    ),
    scales(
        "flag_of_a_derived_root",
        """
        class Net(Scale):
            def __init__(self, size=3):
                super().__init__(False, size)
                self.resh = Parameter(torch.rand(size))
        """,
    ),
    one(
        "flag_in_other_words",
        """
        class Scale(nn.Module):
            def __init__(self, fixed=False, given=None, mode="learn", extra=True):
                super().__init__()
                if not fixed:
                    self.tav = Parameter(torch.rand(3))
                else:
                    self.register_buffer("tav", torch.rand(3))
                if given is None:
                    self.shin = Parameter(torch.rand(3))
                else:
                    self.register_buffer("shin", given)
                if given is not None and extra:
                    self.register_buffer("resh", given)
                else:
                    self.resh = Parameter(torch.rand(3))
                if mode == "learn":
                    self.qof = Parameter(torch.rand(3))
                elif mode in ("fix", "keep"):
                    self.register_buffer("qof", torch.rand(3))
                self._end(fixed)

            def _end(self, fixed):
                if fixed:
                    self.register_buffer("pe", torch.rand(3))
                    return
                self.pe = Parameter(torch.rand(3))


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Scale()
                self.bet = Scale(fixed=True)
                self.gimel = Scale(given=torch.rand(3))
                self.dalet = Scale(mode="fix")
                self.he = Scale(True, None, "keep", extra=False)
        """,
        open="gimel.shin gimel.resh bet.pe he.pe",
    ),
    one(
        "flag_of_the_root_in_other_words",
        """
        class Net(nn.Module):
            def __init__(self, fixed=True, given=None, mode="learn"):
                super().__init__()
                if not fixed:
                    self.alef = Parameter(torch.rand(3))
                else:
                    self.register_buffer("alef", torch.rand(3))
                register = self.register_buffer if fixed else self.register_parameter
                register("bet", torch.rand(3) if fixed else Parameter(torch.rand(3)))
                value = Parameter(torch.rand(3)) if mode == "learn" else nn.Buffer(torch.rand(3))
                self.gimel = value
                try:
                    self.register_buffer("dalet", given.clone())
                except AttributeError:
                    self.dalet = Parameter(torch.rand(3))
                self.he = Parameter(torch.rand(3), requires_grad=not fixed)
                self._end(fixed)

            def _end(self, fixed):
                if fixed:
                    self.register_buffer("vav", torch.rand(3))
                    return
                self.vav = Parameter(torch.rand(3))
        """,
        unknown="alef gimel dalet vav",
        open="bet",
    ),
    one(
        "flag_as_an_attribute",
        """
        class Scale(nn.Module):
            learnt = True

            def __init__(self, size=3, fixed=False):
                super().__init__()
                self.fixed = fixed
                if self.learnt:
                    self.tav = Parameter(torch.rand(size))
                else:
                    self.register_buffer("tav", torch.rand(size))
                self._build(size)

            def _build(self, size):
                if self.fixed:
                    self.register_buffer("shin", torch.rand(size))
                else:
                    self.shin = Parameter(torch.rand(size))


        class Fixed(Scale):
            learnt = False


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Scale(3)
                self.bet = Fixed(3)
                self.gimel = Scale(3, fixed=True)
        """,
        open="alef.tav alef.shin bet.tav bet.shin gimel.tav gimel.shin",
    ),
    net(
        "not_persistent",
        """
        self.register_buffer("alef", torch.rand(size), persistent=False)
        self.register_buffer("bet", torch.rand(size), False)
        self.register_buffer("gimel", torch.rand(size), persistent=True)
        for name in ("dalet", "he"):
            self.register_buffer(name, torch.rand(size), persistent=False)
        self.vav = nn.Buffer(torch.rand(size), persistent=False)
        self.zayin = nn.ModuleList([Table() for _ in range(3)])
        self.het = Parameter(torch.rand(size))
        """,
        before="""
        class Table(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("tav", torch.rand(3), persistent=False)
                self.shin = Parameter(torch.rand(3))
        """,
    ),
    # A child without anything in the file: only the source, and _metadata, know that it is there.
    one(
        "nothing_but_not_persistent",
        """
        class Rotary(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.register_buffer("tav", torch.rand(size), persistent=False)


        class Wrapped(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.rotary = Rotary(size)


        class Block(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.shin = Parameter(torch.rand(size))
                self.rotary = Rotary(size)


        class Net(nn.Module):
            def __init__(self, size=3):
                super().__init__()
                self.alef = Parameter(torch.rand(size))
                self.bet = Rotary(size)
                self.gimel = Wrapped(size)
                self.dalet = nn.ModuleList([Block(size) for _ in range(2)])
        """,
    ),
    # How many there are, or whether there is one, the file shows in its _metadata at best.
    one(
        "perhaps_a_child_with_nothing_else",
        """
        class Rotary(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.register_buffer("tav", torch.rand(size), persistent=False)


        class Net(nn.Module):
            def __init__(self, size=3, depth=2, flag=True):
                super().__init__()
                self.alef = Parameter(torch.rand(size))
                self.bet = nn.ModuleList([Rotary(size) for _ in range(depth)])
                self.gimel = Rotary(size) if flag else None
                self.dalet = Rotary(size) if not flag else None
                if depth > 2:
                    self.he = Rotary(size)
        """,
        unseen="bet.0.tav bet.1.tav gimel.tav",
        possible="dalet.tav he.tav",
    ),
    net(
        "perhaps_not_persistent",
        """
        self.alef = Parameter(torch.rand(size))
        if flag:
            self.register_buffer("bet", torch.rand(size), persistent=False)
        if not flag:
            self.register_buffer("gimel", torch.rand(size), persistent=False)
        self.keep = not flag
        self.register_buffer("dalet", torch.rand(size), persistent=self.keep)
        self.register_buffer("he", torch.rand(size), persistent=flag)
        self.register_buffer("vav", torch.rand(size) if flag else None, persistent=False)
        self.register_buffer("zayin", None, persistent=False)
        for number in range(size - 2):
            self.register_buffer(f"het_{number}", torch.rand(size), persistent=False)
        """,
        possible="bet gimel dalet vav zayin het_0",
    ),
    one(
        "persistent_by_an_argument",
        """
        class Table(nn.Module):
            def __init__(self, keep=False):
                super().__init__()
                self.shin = Parameter(torch.rand(3))
                self.keep = keep
                self.register_buffer("tav", torch.rand(3), persistent=keep)
                self.register_buffer("resh", torch.rand(3), persistent=self.keep)


        class Net(nn.Module):
            def __init__(self, keep=True):
                super().__init__()
                self.alef = Table()
                self.bet = Table(True)
                self.gimel = Table(keep)
                self.dalet = Table(not keep)
        """,
        possible="dalet.tav dalet.resh",
        unseen="alef.tav alef.resh",
    ),
    one(
        "persistent_in_the_base_only",
        """
        class Base(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("tav", torch.rand(3))
                self.register_buffer("shin", torch.rand(3), persistent=False)


        class Net(Base):
            def __init__(self):
                super().__init__()
                self.register_buffer("tav", torch.rand(3), persistent=False)
                self.register_buffer("shin", torch.rand(3))
                self.alef = Parameter(torch.rand(3))
        """,
        fits=None,
        open="shin alef",
    ),
    # What code does to the set of names that are not saved cannot be seen.
    net(
        "persistent_by_hand",
        """
        self.register_buffer("alef", torch.rand(size))
        self.register_buffer("bet", torch.rand(size), persistent=False)
        self._non_persistent_buffers_set.add("alef")
        self._non_persistent_buffers_set.discard("bet")
        self.gimel = Parameter(torch.rand(size))
        """,
        possible="alef",
        unseen="alef",
        open="bet gimel",
        fits=None,
    ),
    one(
        "not_persistent_in_a_type_that_is_not_shown",
        """
        class Table(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("tav", torch.rand(3), persistent=False)


        class Net(nn.Module):
            def __init__(self, child):
                super().__init__()
                self.alef = child
                self.bet = Parameter(torch.rand(3))
        """,
        root="pkg.model.Net(pkg.model.Table())",
        unseen="alef.tav",
        possible="alef.tav",
    ),
)
