"""benchmarks.gpu without a GPU: its order and its figures."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import cases, kernels, report, schedule
from benchmarks.gpu import command as gpu

FIGURES = sorted((Path(gpu.__file__).parents[1] / "results").glob("gpu-*.json"))

OPTIONS = {
    "device": "cpu",
    "threads": 1,
    "rounds": 3,
    "seconds": 0.1,
    "processes": 4,
    "compilers": 1,
    "patience": 60,
    "memory": 80,
}


class Finished:
    """A contender that is ready as soon as it is told to go on, and computes 10 batches a second."""

    def __init__(self, job):
        self.job, self.state, self.error = job, "lowered", ""
        self.spent, self.facts, self.multiply_adds = [1, 2], {"version": "1"}, 10**9
        self.seconds, self.memory, self.computed = 0.1, 10**9, 0

    def go_on(self, state):
        if "eager" in self.job.contender:
            self.fail("OutOfMemoryError: out of memory")
        elif self.job.batch > 256:
            self.fail("RESOURCE_EXHAUSTED")
        else:
            self.state = {"compiling": "compiled", "warming": "ready"}[state]

    def run(self, batches):
        return batches / 10

    def profile(self, batches):
        return kernels.table([("gemm", "", 1.0)] * batches, batches, {})

    def fail(self, error):
        self.state, self.error = "failed", error

    def log(self):
        return ""

    def poll(self, limit):
        pass

    pause = resume = stop = lambda self: None


def run(selected, monkeypatch, largest=None, minutes=1.0):
    monkeypatch.setattr(schedule, "Worker", Finished)
    found = report.new()
    found["runs"].append({"date": "", "device": "", "versions": {}, "peaks": {}})
    left = schedule.Schedule(
        schedule.peak_cases(selected),
        OPTIONS,
        lambda case: largest,
        lambda turns: report.add(found, turns),
    ).run(minutes)
    return found, left


def test_a_contender_that_fails_does_not_keep_the_others(monkeypatch):
    case = cases.Case(
        "inference",
        "CvT13",
        224,
        "bfloat16",
        64,
        (cases.JAX, cases.EAGER, cases.COMPILED),
        profiled=(cases.JAX,),
    )
    found, left = run([case], monkeypatch)
    assert not left
    (record,) = found["cases"]
    rows = record["contenders"]
    assert rows[cases.EAGER] == {
        "prepare_seconds": 1,
        "error": "OutOfMemoryError: out of memory",
    }
    assert rows[cases.COMPILED]["ratio"] == 1
    assert rows[cases.JAX]["images_per_second"] == pytest.approx(640)
    assert rows[cases.JAX]["flops"] == pytest.approx(640 * 2e9)
    # The product of the same run is the measure: here it is as fast in both frameworks.
    assert rows[cases.JAX]["share"] == pytest.approx(640 * 2e9 / (2 * 8192**3 * 10))
    assert record["profiles"][cases.JAX]["kinds"] == {"matrix product": 1.0}
    assert f"| {cases.JAX} | 640 | 640-640 | 1.00 |" in report.tables(found)


def test_a_largest_batch_that_does_not_fit_is_halved(monkeypatch):
    case = cases.Case("training", "CvT13", 224, "bfloat16", None, (cases.JAX,))
    found, left = run([case], monkeypatch, largest=1024)
    assert not left
    assert [record["batch"] for record in found["cases"]] == [1024, 512, 256]
    assert "images_per_second" in found["cases"][-1]["contenders"][cases.JAX]


def test_what_was_not_reached_is_told(monkeypatch):
    case = cases.Case("training", "CvT13", 224, "bfloat16", 8, (cases.JAX,))
    found, left = run([case], monkeypatch, minutes=1e-9)
    assert case in left and not found["cases"]


def test_largest_batch():
    assert schedule.largest_batch(128, 9.9e9, 77e9) == 512
    assert schedule.largest_batch(128, 9.9e9, 80e9) == 1024


def test_cases_differ_and_have_what_they_are_compared_with():
    known = cases.all_cases()
    titles = [case.title for case in known]
    assert len(set(titles)) == len(titles)
    for case in known:
        assert set(case.profiled) <= set(case.contenders)
        # Who computes our function is counted, so one of each case says how much that is.
        ours = any(name.startswith("Keras/") for name in case.contenders)
        assert ours or case.task == "product" or case.batch is None


def test_kernels_are_summed_by_kind():
    found = [("nvjet_128x128", "", 2.0), ("loop_fusion_7", "", 1.0), ("loop_fusion_8", "", 1.0)]
    sources = {
        "loop_fusion.7": "jit(f)/stage2_blocks_3/norm1/mul",
        "loop_fusion.8": "jit(f)/stage2_blocks_4/norm1/mul",
    }
    table = kernels.table(found, 2, sources)
    assert table["kinds"] == {"matrix product": 1.0, "LayerNorm": 1.0}
    assert table["longest"][1] == {
        "name": "loop_fusion",
        "source": "jit(f)/stage2_blocks/norm1/mul",
        "milliseconds": 1.0,
        "calls": 1.0,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds: must be a number, above 0. Received '0'."),
        (["--rounds", "2"], "--rounds: must be an integer, at least 3. Received '2'."),
        (["--resume"], "--resume needs --json."),
        (["--cases", "("], "is no regular expression"),
        (["--json", "none/figures.json"], "/none to write figures.json in"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert gpu.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.main(["--json", str(tmp_path / "figures.json")]) == 2
    assert "--device cpu tries this out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.name)
def test_tables_of_figures(path, capsys):
    assert gpu.main(["--table", str(path)]) == 0
    output = capsys.readouterr().out
    for record in json.loads(path.read_text())["cases"]:
        assert f"| {record['title']} |" in output


def test_a_file_without_figures(capsys, tmp_path):
    (tmp_path / "figures.json").write_text("{}")
    assert gpu.main(["--table", str(tmp_path / "figures.json")]) == 2
    assert "not what --json writes" in capsys.readouterr().err


def test_the_processor_tries_it_out_in_small(capsys):
    assert gpu.main(["--list", "--device", "cpu", "--batch", "2", "--size", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("matrix product, bfloat16")
    assert any(line.startswith("CvT13 64 training bfloat16 batch 2:") for line in lines)
