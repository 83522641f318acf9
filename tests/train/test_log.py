"""Reading a metrics.jsonl that was damaged by a crash, a disk or a person; lines of epochs."""

import json
import logging
import shutil
import threading

import pytest

from resnets.train.log.epoch_lines import EpochLines
from resnets.train.log.run_log import DAMAGED, METRICS, RunLog, read_rows
from resnets.train.log.timing import STAGES

ROWS = [{"kind": "train", "step": step, "epoch": step / 4, "loss": 1.0} for step in (1, 2, 3, 4)]
BAD = [
    b'{"kind": "train", "ste',
    b"17",
    b"null",
    b"[]",
    b'{"kind": "train"}',
    b'{"kind": "train", "step": "4"}',
    b'{"kind": "train", "step": true}',
    b'{"kind": 3, "step": 4}',
    b'{"kind": "tr\xff", "step": 4}',
    b"\x00\x00\x00",
    b'{"kind": "val", "step": 2, "epoch": 0.5, "balanced_error": "60"}',
    b"[" * 100_000,
    json.dumps(
        {
            **dict.fromkeys(("seconds", *STAGES, "epoch", "decode_cpu"), 0.5),
            "kind": "time",
            "step": 2,
            "decode_threads": 2,
            "packed": False,
        }
    ).encode(),
]


def write(folder, lines, end=b"\n"):
    (folder / METRICS).write_bytes(b"\n".join(lines) + end)


@pytest.mark.parametrize("bad", BAD)
def test_a_damaged_line_costs_no_other(tmp_path, caplog, bad):
    first, second, *rest = (json.dumps(row).encode() for row in ROWS)
    write(tmp_path, [first, bad, second, *rest])
    with caplog.at_level(logging.WARNING, "resnets"):
        assert read_rows(tmp_path) == ROWS
    (record,) = caplog.records
    assert "1 of 5 lines" in record.getMessage()
    assert "line 2" in record.getMessage()


def test_a_line_truncated_by_a_kill_is_not_damage(tmp_path, caplog):
    lines = [json.dumps(row).encode() for row in ROWS]
    write(tmp_path, [*lines[:3], lines[3][:9]], end=b"")
    assert read_rows(tmp_path) == ROWS[:3]
    write(tmp_path, lines, end=b"")
    assert read_rows(tmp_path) == ROWS
    assert not caplog.records


def test_resuming_keeps_what_is_damaged_apart(tmp_path):
    first, *rest = (json.dumps(row).encode() for row in ROWS)
    write(tmp_path, [first, BAD[0], *rest])
    RunLog(tmp_path, total=10, step=3, quiet=True).close()
    assert read_rows(tmp_path) == ROWS[:3]
    assert (tmp_path / DAMAGED).read_bytes() == BAD[0] + b"\n"


def write_until_it_fails(log, caplog):
    """Write rows until TensorBoard's thread, which writes when it has the time, has failed."""
    step = 0
    while "cannot write events" not in caplog.text:  # its thread writes when it has the time
        step += 1
        assert step < 100_000
        log.write({"kind": "note", "step": step, "epoch": 0.0, "loss": 1.0})
    return step


def test_a_run_continues_without_tensorboard(tmp_path, caplog, capfd):
    pytest.importorskip("tensorboard")
    hook = threading.excepthook
    log = RunLog(tmp_path, total=1000, quiet=True)
    shutil.rmtree(tmp_path / "tensorboard")
    step = write_until_it_fails(log, caplog)
    log.close()
    assert len(read_rows(tmp_path)) == step
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is hook


def test_errors_of_tensorboard_stay_hidden_while_another_log_closes(tmp_path, caplog, capfd):
    """As cells of a study that share a process do."""
    pytest.importorskip("tensorboard")
    hook, threads = threading.excepthook, set(threading.enumerate())
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    first = RunLog(tmp_path / "one", total=1000, quiet=True)
    second = RunLog(tmp_path / "other", total=1000, quiet=True)
    first.close()
    shutil.rmtree(tmp_path / "other/tensorboard")
    write_until_it_fails(second, caplog)
    assert set(threading.enumerate()) <= threads  # the writer's thread has ended
    second.close()
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is hook


def test_a_file_in_place_of_the_tensorboard_folder_does_not_end_a_run(tmp_path, caplog):
    pytest.importorskip("tensorboard")
    hook = threading.excepthook
    (tmp_path / "tensorboard").write_text("notes")
    log = RunLog(tmp_path, total=10, quiet=True)
    log.write({"kind": "note", "step": 1, "epoch": 0.0, "loss": 1.0})
    log.close()
    assert threading.excepthook is hook
    assert len(read_rows(tmp_path)) == 1
    assert str(tmp_path / "tensorboard") in caplog.text
    assert (tmp_path / "tensorboard").read_text() == "notes"


def test_an_epoch_is_one_line():
    """Its training rows weighted by their steps, and the evaluations at its last step."""
    lines_printed = []
    lines = EpochLines(total=20, step=0, emit=lines_printed.append)

    def place(step):
        return {"step": step, "epoch": step / 10.2, "seconds_per_step": 2.0}

    lines.train({"kind": "train", "loss": 2.0, "top1_error": 90.0, **place(8)})
    lines.train({"kind": "train", "loss": 1.0, "top1_error": 40.0, **place(10)})
    lines.end({"kind": "time", **place(10)})
    val = {"kind": "val", "loss": 1.0, "top1_error": 50.0, "balanced_error": 60.0}
    lines.evaluation({**val, **place(10)})
    lines.flush(10)
    assert lines_printed == []  # an evaluation on another split may follow
    lines.flush(11)
    assert lines_printed == [
        "epoch 1/2  loss 1.800, error 80.0%  val error 50.0%, balanced 60.0%  0:20 left"
    ]
    lines.evaluation({**val, "balanced_error": 50.1, **place(15)})
    lines.flush()
    assert lines_printed[1:] == ["epoch 1.5/2  val error 50.0%  0:10 left"]
    lines.end({"kind": "time", **place(20)})
    lines.evaluation({"kind": "val", "AP": 12.34, "AP50": 30.0, **place(20)})
    lines.evaluation({"kind": "test", "loss": 0.5, **place(20)})
    lines.flush()
    assert lines_printed[2:] == ["epoch 2/2  val mAP 12.3%, mAP@.5 30.0%  test loss 0.500"]
    lines.flush()
    lines.end({"kind": "time", **place(30)})
    lines.flush()
    assert len(lines_printed) == 3  # none without a metric


def test_the_time_left_is_known_before_the_first_row_of_training():
    """Epochs shorter than `log_every` have no such row, but their own time."""
    lines_printed = []
    lines = EpochLines(total=40, step=0, emit=lines_printed.append)
    lines.end({"kind": "time", "step": 10, "epoch": 1.0, "seconds": 30.0})
    lines.evaluation({"kind": "val", "mAP": 41.0, "step": 10, "epoch": 1.0})
    lines.flush()
    assert lines_printed == ["epoch 1/4  val mAP 41.0%  1:30 left"]
