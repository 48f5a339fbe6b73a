"""What of the standard library, and beside torch, takes code, a command, a path or an address."""

from __future__ import annotations

import functools
import importlib
import warnings

import pytest

from ckpttool.findings.globals import Verdict, judge_global
from ckpttool.values.checkpoint import GlobalRef


def verdict(text: str) -> Verdict:
    module, _, name = text.partition(":")
    return judge_global(GlobalRef(module, name, True)).verdict


TAKES_CODE = """
    builtins:eval builtins:exec builtins:compile bdb:Bdb.run bdb:Bdb.runeval cProfile:run cProfile:Profile.run
    cProfile:Profile.runctx profile:run profile:Profile.run profile:Profile.runctx code:interact
    code:InteractiveInterpreter.runsource code:InteractiveInterpreter.runcode code:compile_command
    codeop:compile_command doctest:debug_src doctest:debug_script pdb:run pdb:runeval runpy:run_path
    runpy:run_module timeit:timeit timeit:repeat timeit:Timer.timeit trace:Trace.run trace:Trace.runctx
    trace:Trace.runfunc rlcompleter:Completer.complete threading:Thread threading:Timer
    _thread:start_new_thread
    types:FunctionType types:CodeType typing:get_type_hints dataclasses:make_dataclass cmd:Cmd.onecmd
    gettext:c2py importlib:import_module importlib.util:spec_from_file_location pkgutil:resolve_name
    pkgutil:get_loader zipimport:zipimporter modulefinder:ModuleFinder.run_script site:addsitedir
    unittest:main unittest:TestLoader.loadTestsFromName unittest.loader:TestLoader.loadTestsFromName
    logging.config:dictConfig logging.config:fileConfig logging.config:listen pickle:loads pickle:Unpickler
    marshal:loads shelve:open pstats:Stats functools:reduce operator:methodcaller operator:attrgetter
    builtins:map builtins:filter itertools:starmap atexit:register weakref:finalize signal:signal
    idlelib.run:Executive.runcode
""".split()

TAKES_A_COMMAND = """
    os:system os:popen os:execv os:spawnv os:posix_spawn posix:system subprocess:run subprocess:Popen
    subprocess:check_output pty:spawn platform:popen webbrowser:open webbrowser:get pydoc:pager
    pydoc:pipepager pydoc:tempfilepager asyncio:create_subprocess_shell
    asyncio.subprocess:create_subprocess_exec
    concurrent.futures:ProcessPoolExecutor concurrent.futures.process:ProcessPoolExecutor
    multiprocessing:Process multiprocessing.pool:Pool venv:create venv:EnvBuilder.create ensurepip:bootstrap
    _aix_support:_read_cmd_output _osx_support:_read_output uuid:_get_command_stdout distutils.spawn:spawn
    distutils.file_util:write_file _pyrepl.pager:pipe_pager _interpreters:create _xxsubinterpreters:create
""".split()

TAKES_A_PATH_TO_WRITE = """
    builtins:open io:open io:FileIO codecs:open bz2:open bz2:BZ2File gzip:open gzip:GzipFile lzma:open
    lzma:LZMAFile zipfile:ZipFile zipfile:ZipFile.extractall tarfile:open tarfile:TarFile.extractall wave:open
    shutil:rmtree shutil:copyfile shutil:move tempfile:mkstemp tempfile:NamedTemporaryFile os:remove os:rename
    os:makedirs pathlib:Path.write_text pathlib:Path.unlink pathlib:PosixPath.rmdir compileall:compile_dir
    py_compile:compile zipapp:create_archive mailbox:mbox fileinput:input dbm:open dbm.dumb:open
    sqlite3:connect logging:FileHandler logging:FileHandler.emit logging:basicConfig
    logging.handlers:RotatingFileHandler tracemalloc:Snapshot.dump
    xml.etree.ElementTree:ElementTree.write http.cookiejar:FileCookieJar
""".split()

TAKES_AN_ADDRESS = """
    socket:create_connection socket:socket ssl:get_server_certificate ftplib:FTP http.client:HTTPConnection
    http.server:HTTPServer imaplib:IMAP4 imaplib:IMAP4_stream poplib:POP3 nntplib:NNTP telnetlib:Telnet
    smtplib:SMTP socketserver:TCPServer urllib.request:urlopen urllib.request:urlretrieve
    urllib.robotparser:RobotFileParser xmlrpc.client:ServerProxy xmlrpc.server:SimpleXMLRPCServer
    wsgiref.simple_server:make_server logging.handlers:SocketHandler logging.handlers:SMTPHandler
    logging.handlers:HTTPHandler asyncore:dispatcher asyncio:open_connection xml.sax:parse
""".split()

OF_OTHERS = """
    aiohttp:ClientSession aiohttp.client:ClientSession requests:get httpx:get torch.hub:load
    fickling.hook:hook
    torch.utils.data.datapipes.utils.decoder:basichandlers torch._dynamo:optimize numpy:save numpy:memmap
    torch.distributed.elastic.multiprocessing.subprocess_handler:SubprocessHandler joblib:load dill:loads
    torch:save pandas:eval
""".split()

RECORDS = """
    collections:deque collections:UserDict datetime:datetime datetime:timedelta datetime:timezone
    decimal:Decimal
    fractions:Fraction ipaddress:IPv4Address pathlib:Path pathlib:PosixPath pathlib:PurePosixPath
    random:Random uuid:UUID enum:Enum types:SimpleNamespace types:MappingProxyType argparse:Namespace
    configparser:ConfigParser array:array zoneinfo:ZoneInfo functools:partial string:Template
    tarfile:TarInfo zipfile:ZipInfo subprocess:CompletedProcess os:stat_result platform:uname_result
    http.cookies:SimpleCookie logging:Logger logging:LogRecord email.message:EmailMessage
    urllib.parse:ParseResult typing:Any operator:itemgetter itertools:count re:Pattern
    torch._dynamo.decorators:_DimRange torch.fx.immutable_collections:immutable_list torch.nn:Linear
""".split()


@functools.cache
def exists(text: str) -> bool:
    """Whether the running Python has it: the lists name what came and went from 2 to 3.14, too."""
    module, _, name = text.partition(":")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("text", [*TAKES_CODE, *TAKES_A_COMMAND, *TAKES_A_PATH_TO_WRITE, *TAKES_AN_ADDRESS])
def test_what_takes_code_a_command_a_path_or_an_address_is_dangerous(text: str) -> None:
    assert verdict(text) is Verdict.DANGEROUS


@pytest.mark.parametrize("text", OF_OTHERS)
def test_so_is_what_suites_of_attacks_take_from_other_packages(text: str) -> None:
    assert verdict(text) is Verdict.DANGEROUS


@pytest.mark.parametrize("text", RECORDS)
def test_what_holds_values_is_not(text: str) -> None:
    assert verdict(text) is not Verdict.DANGEROUS


def test_the_lists_name_what_there_is() -> None:
    """A name that is misspelled would prove nothing; what other versions of Python have may be missing."""
    plain = [text for text in RECORDS if not text.startswith("torch")]
    assert [text for text in plain if not exists(text)] == []
    absent = [text for text in (*TAKES_CODE, *TAKES_A_PATH_TO_WRITE, *TAKES_AN_ADDRESS) if not exists(text)]
    assert set(absent) <= {"nntplib:NNTP", "telnetlib:Telnet", "asyncore:dispatcher", "pkgutil:get_loader"}


def test_a_folder_of_ones_own_may_be_called_as_a_module_of_python() -> None:
    for text in ("code.models:Net", "test.models:Net", "profile.models:Net", "trace.net:Net", "site.x:Net"):
        assert verdict(text) is Verdict.UNKNOWN
