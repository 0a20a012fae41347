"""What all command lines share: one-line errors, exit statuses, types of arguments."""

import argparse
import errno
import io
import os
import subprocess
import sys

import pytest

from keras_cvt import _commands, _figures, _tables
from keras_cvt._commands import Parser, UsageError, command
from keras_cvt._messages import one_line


class Refused(Exception):
    pass


class Refused3(Refused):
    pass


def program(function):
    @command("programs.one", {Refused3: 3, Refused: 4}, interrupted="It goes on.")
    def main(argv=None):
        """What it does."""
        parser = Parser(prog="programs.one")
        parser.add_argument("--count", type=_commands.integer(1), default=1)
        return function(parser.parse_args(argv))

    return main


def test_statuses(capsys):
    assert program(lambda arguments: None)([]) == 0
    assert program(lambda arguments: 7)(["--count", "3"]) == 7
    assert capsys.readouterr().err == ""
    for error, status in (
        (Refused3("no\nway"), 3),
        (Refused("no way"), 4),
        (UsageError("no way"), 2),
    ):

        def fail(arguments, error=error):
            raise error

        assert program(fail)([]) == status
        assert capsys.readouterr().err == "programs.one: error: no way\n"
    assert program(fail).__doc__ == "What it does."


def test_wrong_arguments_are_told_in_a_line(capsys):
    main = program(lambda arguments: pytest.fail("work has begun"))
    assert main(["--count", "0"]) == 2
    said = "programs.one: error: argument --count: must be an integer, at least 1. Received '0'.\n"
    assert capsys.readouterr().err == said
    assert main(["--other"]) == 2
    assert capsys.readouterr().err == "programs.one: error: unrecognized arguments: --other\n"
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "usage: programs.one" in capsys.readouterr().out


def test_what_nobody_expects_keeps_its_traceback():
    def fail(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        program(fail)([])


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (KeyboardInterrupt(), "It goes on."),
        (KeyboardInterrupt("It begins anew."), "It begins anew."),
    ],
)
def test_interrupted(stop, said, capsys):
    def interrupted(arguments):
        raise stop

    assert program(interrupted)([]) == 130
    assert capsys.readouterr().err == f"\nprograms.one: Interrupted. {said}\n"


@pytest.mark.parametrize(
    ("parse", "right", "wrong"),
    [
        (_commands.integer(0), {"0": 0, "12": 12}, ("-1", "1.0", "one", "")),
        (_commands.number(0), {"0": 0, "1e-3": 0.001}, ("-1", "nan", "inf", "one")),
        (_commands.number(above=0), {"0.5": 0.5}, ("0", "-1", "nan", "inf")),
        (
            _commands.image_size,
            {"384": (384, 384), "64x96": (64, 96)},
            ("0", "x", "1x2x3", "-1", "65536", "9x99999999", "9" * 5000),
        ),
        (
            _commands.crop,
            {"0.875": 0.875, "1": 1.0, "none": "none", "official": "official"},
            ("0", "1.1", "nan", "half"),
        ),
    ],
)
def test_types_of_arguments(parse, right, wrong):
    assert {text: parse(text) for text in right} == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError) as error:
            parse(text)
        assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "{{function_node __wrapped__SaveV2_dtypes_54_device_/job:localhost/device:CPU:0}} "
            "/m/variables.data; File too large [Op:SaveV2] name: ",
            "/m/variables.data; File too large",
        ),
        (
            "{{function_node f}} {{function_node g}} no [way]\n\t [[{{node cond/Assert}}]]",
            "no [way]",
        ),
        ("a {b} [c]", "a {b} [c]"),
    ],
)
def test_errors_are_told_without_the_operations_of_tensorflow(message, said):
    class OpError(Exception):
        pass

    error = OpError("in the traceback")
    error.message = message
    assert one_line(error) == said


def test_new_files(tmp_path):
    with pytest.raises(UsageError, match=r"--output must end in .png or .svg. Received a.txt"):
        _commands.check_new_file(tmp_path / "a.txt", (".png", ".svg"))
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        _commands.check_new_file(tmp_path / "none" / "a.png", (".png",))
    _commands.check_new_file(tmp_path / "a.PNG", (".png",))
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is kept"):
        _commands.check_new_file(tmp_path / "a.png", (".png",))


def test_tables():
    rows = [("name", "count", ""), ("a", "1,000", "wrong"), ("longer", "2", "")]
    assert _tables.aligned(rows, right=(1,)) == [
        "name    count",
        "a       1,000  wrong",
        "longer      2",
    ]
    assert _tables.markdown(rows[:2]) == [
        "| name | count |  |",
        "| --- | --- | --- |",
        "| a | 1,000 | wrong |",
    ]


def test_figures(tmp_path):
    figure, places = _figures.image_grid(5, (1.0, 1.5), most_columns=3)
    assert len(places) == 6 and tuple(figure.get_size_inches()) == (3, 3)
    path = tmp_path / "a.png"
    _figures.save(figure, path, dpi=50)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileExistsError):
        _figures.save(figure, path, dpi=50, overwrite=False)
    assert list(tmp_path.iterdir()) == [path]


def test_names_in_figures_are_no_formulas(tmp_path):
    figure, (axes,) = _figures.grid(1, 1, (2, 2))
    axes.set_title("x$_$y")  # none that can be read as one
    axes.plot([1, 2], label="US$ and A$")
    axes.legend()
    _figures.save(figure, tmp_path / "a.svg", dpi=50)
    assert (tmp_path / "a.svg").stat().st_size
    axes.title.set_parse_math(True)
    with pytest.raises(ValueError):
        figure.savefig(tmp_path / "b.svg")


def test_letters_that_the_output_lacks_are_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "latin-1"))
    said = "caf\u00e9 \U0001f431 " + os.fsdecode(b"\xff.jpg")
    assert program(lambda _: print(said))([]) == 0
    assert raw.getvalue() == b"caf\xe9 \\U0001f431 \xff.jpg\n"


def test_a_full_disk_is_a_line_and_the_status_1(capsys):
    def fill(arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "table.csv")

    assert program(fill)([]) == 1
    said = "programs.one: error: [Errno 28] No space left on device: 'table.csv'\n"
    assert capsys.readouterr().err == said


PRINTS = """
import sys
from keras_cvt._commands import exit_status

def main():
    for _ in range(int(sys.argv[1])):
        print("x" * 99)

sys.exit(exit_status("programs.one", main, {OSError: 2}))
"""


@pytest.mark.parametrize(
    "lines", [1, 10_000]
)  # fewer and more than are kept before they are written
def test_standard_output_that_takes_nothing_more(lines):
    command = [sys.executable, "-c", PRINTS, str(lines)]
    reading, writing = os.pipe()
    os.close(reading)  # as of `| head -0`
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, b"")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert process.returncode == 1
        assert process.stderr == "programs.one: error: [Errno 28] No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="closes a shell's output")
def test_standard_output_that_was_closed_before(tmp_path):
    """Python then has no `sys.stdout`, and the next file that is opened takes its number."""
    program = PRINTS.replace("def main():", "def main():\n    file = open('table.csv', 'w')")
    program = program.replace("    for", "    os.write(1, b'from a library')\n    for")
    command = [sys.executable, "-c", "import os" + program, "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for closed in (">&-", ">&- 2>&-"):
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
        process = subprocess.run(shell, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
        assert (process.returncode, process.stderr) == (0, b"")
        assert (tmp_path / "table.csv").read_text() == ""
