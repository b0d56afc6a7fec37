"""Asks a running `quantkit serve` through NVIDIA's Triton client, over HTTP.

    pip install "tritonclient[http]"
    quantkit serve model.gguf --port 8000
    python scripts/check_triton.py 127.0.0.1:8000 model

It prints what it gets, and exits with 1 where the same prompt gives different texts as JSON, as bytes, in a
batch and alone.
"""

import argparse
import sys

import numpy
import tritonclient.http as http


def text_input(prompts: list[str], binary: bool) -> http.InferInput:
    tensor = http.InferInput("text_input", [len(prompts), 1], "BYTES")
    data = numpy.array([[prompt.encode()] for prompt in prompts], dtype=object)
    tensor.set_data_from_numpy(data, binary_data=binary)
    return tensor


def number(name: str, kind: str, value) -> http.InferInput:
    tensor = http.InferInput(name, [1], kind)
    tensor.set_data_from_numpy(numpy.array([value], dtype={"INT32": numpy.int32, "FP32": numpy.float32}[kind]))
    return tensor


def infer(client, model: str, prompts: list[str], binary: bool) -> list[str]:
    inputs = [text_input(prompts, binary), number("max_tokens", "INT32", 16), number("temperature", "FP32", 0.0)]
    outputs = [http.InferRequestedOutput("text_output", binary_data=binary)]
    answer = client.infer(model, inputs, outputs=outputs, request_id="7")
    texts = answer.as_numpy("text_output")
    assert answer.get_response()["id"] == "7" and list(texts.shape) == [len(prompts), 1]
    return [text.decode() if isinstance(text, bytes) else text for text in texts.ravel()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("model")
    options = parser.parse_args()
    client = http.InferenceServerClient(options.address, network_timeout=300, connection_timeout=300)
    print("live", client.is_server_live(), "ready", client.is_server_ready(), client.is_model_ready(options.model))
    print("server", client.get_server_metadata())
    print("model", client.get_model_metadata(options.model)["inputs"][0])
    print("repository", client.get_model_repository_index())
    prompts = ["The capital of France is", "Water boils at"]
    together = infer(client, options.model, prompts, binary=True)
    ways = [infer(client, options.model, prompts, binary=False)]
    ways.append([infer(client, options.model, [prompt], binary=True)[0] for prompt in prompts])
    print("texts", together)
    success = client.get_inference_statistics(options.model)["model_stats"][0]["inference_stats"]["success"]
    print("success", success)
    try:
        client.infer("nobody", [text_input(["x"], True)])
        return 1
    except http.InferenceServerException as error:
        print("refused:", error)
    return 0 if all(way == together for way in ways) else 1


if __name__ == "__main__":
    sys.exit(main())
