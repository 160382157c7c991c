"""The fields of the messages that describe a model: its tensors, its configuration, its statistics.

Sources: Triton's model_config.proto and grpc_service.proto, whose JSON has the fields in this order.
"""

from __future__ import annotations

from drumfire.sut.kserve.messages.protobuf import Schema

TENSOR: Schema = {1: ("name", str), 2: ("datatype", str), 3: ("shape", [int])}

CONFIG_TYPES = (
    "TYPE_INVALID",
    "TYPE_BOOL",
    "TYPE_UINT8",
    "TYPE_UINT16",
    "TYPE_UINT32",
    "TYPE_UINT64",
    "TYPE_INT8",
    "TYPE_INT16",
    "TYPE_INT32",
    "TYPE_INT64",
    "TYPE_FP16",
    "TYPE_FP32",
    "TYPE_FP64",
    "TYPE_STRING",
    "TYPE_BF16",
)


def config_type(datatype: str) -> str:
    """The name in a configuration of a datatype of the protocol."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


_RESHAPE: Schema = {1: ("shape", [int])}
CONFIG: Schema = {
    1: ("name", str),
    2: ("platform", str),
    17: ("backend", str),
    3: (
        "version_policy",
        {1: ("latest", {1: ("num_versions", int)}), 2: ("all", {}), 3: ("specific", {1: ("versions", [int])})},
    ),
    4: ("max_batch_size", int),
    5: (
        "input",
        [
            {
                1: ("name", str),
                2: ("data_type", CONFIG_TYPES),
                3: ("format", ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW")),
                4: ("dims", [int]),
                5: ("reshape", _RESHAPE),
                6: ("is_shape_tensor", bool),
                7: ("allow_ragged_batch", bool),
                8: ("optional", bool),
                9: ("is_non_linear_format_io", bool),
            }
        ],
    ),
    6: (
        "output",
        [
            {
                1: ("name", str),
                2: ("data_type", CONFIG_TYPES),
                3: ("dims", [int]),
                5: ("reshape", _RESHAPE),
                4: ("label_filename", str),
                6: ("is_shape_tensor", bool),
                7: ("is_non_linear_format_io", bool),
            }
        ],
    ),
    11: (
        "dynamic_batching",
        {
            1: ("preferred_batch_size", [int]),
            2: ("max_queue_delay_microseconds", int),
            3: ("preserve_ordering", bool),
            4: ("priority_levels", int),
            5: ("default_priority_level", int),
        },
    ),
    7: (
        "instance_group",
        [
            {
                1: ("name", str),
                4: ("kind", ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")),
                2: ("count", int),
                3: ("gpus", [int]),
                5: ("profile", [str]),
                7: ("passive", bool),
                9: ("host_policy", str),
            }
        ],
    ),
    8: ("default_model_filename", str),
    19: ("model_transaction_policy", {1: ("decoupled", bool)}),
    24: ("response_cache", {1: ("enable", bool)}),
}

_DURATION: Schema = {1: ("count", int), 2: ("ns", int)}
STATISTICS: Schema = {
    1: ("name", str),
    2: ("version", str),
    3: ("last_inference", int),  # ms since 1970
    4: ("inference_count", int),
    5: ("execution_count", int),
    6: (
        "inference_stats",
        {
            1: ("success", _DURATION),
            2: ("fail", _DURATION),
            3: ("queue", _DURATION),
            4: ("compute_input", _DURATION),
            5: ("compute_infer", _DURATION),
            6: ("compute_output", _DURATION),
            7: ("cache_hit", _DURATION),
            8: ("cache_miss", _DURATION),
        },
    ),
    7: (
        "batch_stats",
        [
            {
                1: ("batch_size", int),
                2: ("compute_input", _DURATION),
                3: ("compute_infer", _DURATION),
                4: ("compute_output", _DURATION),
            }
        ],
    ),
}
