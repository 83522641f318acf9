"""Damaged artifacts: one error, nothing printed, and no reader of another format is tried."""

from pathlib import Path

import pytest

from resnets.runtime.artifact import ArtifactError


def test_onnx_runtime_prints_nothing_and_does_not_try_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from resnets.runtime.onnx import OnnxBackend

    one = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "ab"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["a"], ["b"])], "g", one[:1], one[1:]
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(
        onnx.helper.make_model(graph).SerializeToString().replace(b"Relu", b"R\x80\x81u")
    )
    with pytest.raises(ArtifactError, match=path.name):
        OnnxBackend(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "head",
    [b'<net name="model" /dimversion="11">', b'<net name=a version="11">', b'<net version="11"'],
)
def test_openvino_is_given_models_of_its_own_only(tmp_path: Path, head: bytes) -> None:
    pytest.importorskip("openvino")
    from resnets.runtime.openvino import MODEL, OpenvinoBackend

    path = tmp_path / "net.xml"
    path.write_bytes(b'<?xml version="1.0"?>\n' + head)
    with pytest.raises(ArtifactError, match="is not an OpenVINO model"):
        OpenvinoBackend(path)
    assert MODEL.match(b'<?xml version="1.0"?>\n<net name="a model" version="11">\n\t<layers>')
