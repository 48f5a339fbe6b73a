"""Packages whose models have children: direct, in containers, and of types that the source does not show."""

from __future__ import annotations

from typing import Any

from tests.support.source_rows import Package, clean, one

# Both kinds under one name: only the type of the child says which it is.
BLOCKS = """
class Learnt(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.tav = Parameter(torch.rand(size))


class Fixed(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.register_buffer("tav", torch.rand(size))


"""


def blocks(name: str, text: str, **more: Any) -> Package:
    """A package with ``Learnt`` and ``Fixed`` before what ``text`` has."""
    return one(name, clean(BLOCKS) + clean(text), **more)


PACKAGES = (
    blocks(
        "children",
        """
        class Middle(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Learnt()
                fixed = Fixed(4)
                self.bet = fixed
                self.gimel, self.dalet = Fixed(), Learnt()
                self.he = self.vav = Fixed()


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Middle()
                self.bet = Learnt(5).to(torch.float32).eval()
                self.gimel: Fixed = Fixed(size=2)
                self.zayin = nn.Linear(3, 3)
        """,
    ),
    blocks(
        "module_lists",
        """
        class Net(nn.Module):
            def __init__(self, depth=2):
                super().__init__()
                self.alef = nn.ModuleList()
                for _ in range(depth):
                    self.alef.append(Learnt())
                self.bet = nn.ModuleList([Fixed() for _ in range(depth)])
                layers = []
                for number in range(depth):
                    layers.append(Learnt(number + 1))
                self.gimel = nn.ModuleList(layers)
                self.dalet = nn.ModuleList([Fixed(), Learnt()])
                self.he = nn.ModuleList([nn.ModuleList([Fixed()]) for _ in range(depth)])
                self.vav = nn.ModuleList()
                self.vav += [Fixed()]
                self.vav.extend([Fixed()])
                self.vav.insert(0, Fixed())
                self.zayin = nn.ModuleList([Learnt()] * depth)
                self.het = nn.ModuleList(Fixed() for _ in range(depth))
                more = nn.ModuleList([])
                more.append(Learnt())
                self.tet = more
        """,
    ),
    blocks(
        "sequentials",
        """
        from collections import OrderedDict


        class Net(nn.Module):
            def __init__(self, depth=2):
                super().__init__()
                self.alef = nn.Sequential(Learnt(), nn.ReLU(), Fixed())
                layers = [Fixed()]
                layers += [nn.ReLU(), Fixed()]
                self.bet = nn.Sequential(*layers)
                self.gimel = nn.Sequential(*[Learnt() for _ in range(depth)])
                self.dalet = nn.Sequential(OrderedDict([("shin", Fixed()), ("resh", Learnt())]))
                self.he = nn.Sequential()
                self.he.add_module("shin", Learnt())
                self.he.append(Fixed())
                named = OrderedDict()
                named["shin"] = Fixed()
                self.vav = nn.Sequential(named)
                self.zayin = nn.Sequential(nn.Sequential(Learnt()), nn.Sequential(Fixed(), nn.BatchNorm1d(3)))
                self.het = nn.Sequential(Learnt(), *[Fixed() for _ in range(depth)])
                if depth:
                    self.tet = nn.Sequential(Fixed())
                else:
                    self.tet = nn.Sequential(Fixed(), Fixed())
        """,
    ),
    blocks(
        "module_dicts",
        """
        class Net(nn.Module):
            def __init__(self, depth=2):
                super().__init__()
                self.alef = nn.ModuleDict({"shin": Learnt(), "resh": Fixed()})
                self.bet = nn.ModuleDict()
                self.bet["shin"] = Fixed()
                self.bet.update({"resh": Fixed()})
                self.gimel = nn.ModuleDict({f"part_{number}": Learnt() for number in range(depth)})
                self.dalet = nn.ModuleDict(dict(shin=Fixed()))
                self.he = nn.ModuleDict([("shin", Fixed()), ("resh", Learnt())])
                self.vav = nn.ModuleDict({name: nn.ModuleList([Fixed()]) for name in ("shin", "resh")})
                self.zayin = nn.ModuleDict()
                for name in ("shin", "resh"):
                    self.zayin[name] = Learnt()
        """,
    ),
    blocks(
        "derived_containers",
        """
        from collections import OrderedDict


        class Stack(nn.Sequential):
            def __init__(self, depth):
                layers = []
                for _ in range(depth):
                    layers.append(Fixed())
                super().__init__(*layers)


        class Pair(nn.Sequential):
            def __init__(self, size=3):
                super().__init__(Learnt(size), nn.BatchNorm1d(size))
                self.register_buffer("qof", torch.rand(size))


        class Named(nn.Sequential):
            def __init__(self):
                super().__init__(OrderedDict([("shin", Fixed()), ("resh", Learnt())]))


        class Grown(nn.Sequential):
            def __init__(self):
                super().__init__()
                self.add_module("shin", Learnt())
                self.add_module("resh", Fixed())


        class Rows(nn.ModuleList):
            def __init__(self, depth):
                super().__init__([Learnt() for _ in range(depth)])
                self.qof = Parameter(torch.rand(3))


        class Dense(nn.ModuleDict):
            def __init__(self, depth):
                super().__init__()
                for number in range(depth):
                    self.add_module("layer%d" % (number + 1), Fixed())


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Stack(2)
                self.bet = Pair()
                self.gimel = Named()
                self.dalet = Grown()
                self.he = Rows(2)
                self.vav = Dense(2)
                self.zayin = nn.ModuleList([Pair(), Pair()])
        """,
    ),
    one(
        "parameter_containers",
        """
        class Net(nn.Module):
            def __init__(self, depth=2):
                super().__init__()
                self.alef = nn.ParameterList()
                for _ in range(depth):
                    self.alef.append(Parameter(torch.rand(3)))
                self.bet = nn.ParameterList([Parameter(torch.rand(3)) for _ in range(depth)])
                self.gimel = nn.ParameterDict()
                self.gimel["shin"] = Parameter(torch.rand(3))
                self.dalet = nn.ModuleList([nn.ParameterList([torch.rand(3)]) for _ in range(depth)])
                self.he = nn.ModuleDict({"resh": nn.ParameterDict({"shin": torch.rand(3)})})
        """,
    ),
    blocks(
        "modules_of_functions",
        """
        import copy


        def learnt(size=3):
            return Learnt(size)


        def row(depth, block=Fixed):
            layers = []
            for _ in range(depth):
                layers.append(Fixed())
            return nn.Sequential(*layers)


        def clones(module, depth):
            return nn.ModuleList([copy.deepcopy(module) for _ in range(depth)])


        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = learnt()
                self.bet = row(2)
                self.gimel = clones(Learnt(), 2)
                self.dalet = self._make(2)
                self.he = nn.Sequential(learnt(), row(1))
                self.vav = copy.deepcopy(Fixed())

            def _make(self, depth):
                layers = [Learnt()]
                for _ in range(1, depth):
                    layers.append(Fixed())
                return nn.Sequential(*layers)
        """,
    ),
    blocks(
        "one_of_several_types",
        """
        class Net(nn.Module):
            def __init__(self, flag=True):
                super().__init__()
                self.alef = Learnt() if flag else nn.Identity()
                if flag:
                    self.bet = Fixed()
                else:
                    self.bet = None
                # Either kind, and no call that says which.
                self.gimel = Learnt() if flag else Fixed()
                if flag:
                    self.dalet = Fixed()
                else:
                    self.dalet = Learnt()
        """,
        unknown="gimel.tav dalet.tav",
    ),
    # The type is an argument, is looked up, or is chosen by code of others: both blocks fit.
    blocks(
        "types_that_are_not_shown",
        """
        import sys

        TABLE = {"learnt": Learnt, "fixed": Fixed}


        class AutoBlock:
            @classmethod
            def from_config(cls, config):
                return TABLE[config["kind"]]()


        class Net(nn.Module):
            def __init__(self, block=None, given=None, config=None):
                super().__init__()
                config = config or {"kind": "fixed"}
                self.alef = (block or Learnt)()
                self.bet = TABLE[config["kind"]]()
                self.gimel = AutoBlock.from_config(config)
                self.dalet = given or Fixed()
                self.he = getattr(sys.modules[__name__], config["kind"].title())()
                self.vav = nn.Sequential(*[kind() for kind in TABLE.values()])
                self.zayin = Parameter(torch.rand(3))
                self.register_buffer("het", torch.rand(3))
        """,
        root="pkg.model.Net(given=pkg.model.Learnt())",
        open="alef.tav dalet.tav bet.tav gimel.tav he.tav vav.0.tav vav.1.tav",
    ),
    # The same with one class that fits: the type does not matter.
    one(
        "types_that_do_not_matter",
        """
        ACT2FN = {"gelu": nn.GELU, "swish": nn.SiLU}


        class Block(nn.Module):
            def __init__(self, size, norm=nn.LayerNorm, act="gelu"):
                super().__init__()
                self.tav = Parameter(torch.rand(size))
                self.register_buffer("shin", torch.rand(size))
                self.norm = norm(size)
                self.act = ACT2FN[act]()


        class Net(nn.Module):
            def __init__(self, block=Block, norm=nn.BatchNorm1d, depth=2):
                super().__init__()
                self.alef = block(3)
                self.bet = nn.ModuleList([block(3, norm=norm) for _ in range(depth)])
        """,
    ),
    one(
        "classes_of_torch",
        """
        class Scaled(nn.Linear):
            def __init__(self, size):
                super().__init__(size, size)
                self.register_buffer("tav", torch.rand(size))


        class Counted(nn.BatchNorm1d):
            def __init__(self, size, **options):
                super().__init__(size, **options)
                self.shin = Parameter(torch.rand(size))


        class Attention(nn.MultiheadAttention):
            pass


        class Recurrent(nn.LSTM):
            def __init__(self, size):
                super().__init__(size, size, num_layers=2, bidirectional=True)
                self.register_buffer("tav", torch.rand(size))


        class Encoder(nn.TransformerEncoderLayer):
            def __init__(self, size):
                super().__init__(size, 2, 4)
                self.tav = Parameter(torch.rand(size))


        class Net(nn.Module):
            def __init__(self, size=4):
                super().__init__()
                self.alef = Scaled(size)
                self.bet = Counted(size)
                self.gimel = Attention(size, 2, add_bias_kv=True)
                self.dalet = Recurrent(size)
                self.he = nn.TransformerEncoder(Encoder(size), 2)
                self.vav = nn.GRUCell(size, size)
                self.zayin = nn.Transformer(size, 2, 1, 1, 4)
                self.het = Counted(size, affine=False, track_running_stats=False)
                self.tet = nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2, 4])
                self.yod = nn.PReLU()
                self.kaf = nn.BCEWithLogitsLoss(pos_weight=torch.rand(size))
                self.lamed = nn.CrossEntropyLoss(torch.rand(size))
        """,
    ),
    blocks(
        "recursive_types",
        """
        class Tree(nn.Module):
            def __init__(self, depth):
                super().__init__()
                self.shin = Parameter(torch.rand(3))
                self.register_buffer("resh", torch.rand(3))
                self.leaf = Fixed()
                self.next = Tree(depth - 1) if depth else None
                self.twigs = nn.ModuleList([Tree(0) for _ in range(2 if depth else 0)])


        class Net(Tree):
            def __init__(self, depth=2):
                super().__init__(depth)
                self.alef = Learnt()
        """,
    ),
    blocks(
        "tied_and_shared",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.alef = Learnt()
                self.bet = Learnt()
                self.bet.tav = self.alef.tav
                self.gimel = self.alef
                self.dalet = nn.ModuleList([self.alef, Fixed()])
        """,
    ),
    # Two classes that both cover the child, the kinds of which differ, where the parent takes any.
    blocks(
        "two_classes_fit",
        """
        class Net(nn.Module):
            def __init__(self, block):
                super().__init__()
                self.alef = block
                self.bet = Parameter(torch.rand(3))
        """,
        root="pkg.model.Net(pkg.model.Fixed())",
        unknown="alef.tav",
    ),
    # The losses of torch have a buffer of this name: they are no candidates where nobody names them.
    one(
        "children_of_torch_that_are_given",
        """
        class Net(nn.Module):
            def __init__(self, first, second, third):
                super().__init__()
                self.alef = first
                self.bet = second
                self.gimel = third
                self.dalet = Parameter(torch.rand(3))
        """,
        root="pkg.model.Net(nn.Linear(3, 3, bias=False), nn.Embedding(3, 3), nn.BatchNorm1d(3))",
    ),
    # Two that both cover it and agree.
    one(
        "two_classes_agree",
        """
        class First(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("tav", torch.rand(3))
                self.shin = Parameter(torch.rand(3))


        class Second(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_parameter("shin", Parameter(torch.rand(3)))
                self.register_buffer("tav", torch.rand(3))


        class Net(nn.Module):
            def __init__(self, block):
                super().__init__()
                self.alef = block


        class Same(nn.Module):
            def __init__(self, block):
                super().__init__()
                self.alef = block
        """,
        root="pkg.model.Net(pkg.model.First())",
    ),
    blocks(
        "list_as_root",
        "pass",
        root="nn.ModuleList([pkg.model.Learnt(), pkg.model.Fixed()])",
        unknown="0.tav 1.tav",
    ),
    one(
        "lists_as_root",
        """
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.tav = Parameter(torch.rand(3))
                self.register_buffer("shin", torch.rand(3))
        """,
        root="nn.ModuleList([nn.Sequential(pkg.model.Block(), pkg.model.Block()), pkg.model.Block()])",
    ),
)
