"""The command line: turns words into options, and errors into one line and an exit status (see ``statuses``).

Imports only the standard library at first, so that ``drumfire --help`` is quick: a command's options, which name
backends and models, and its module are imported when it is chosen.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from drumfire.bench import errors, interrupts, statuses


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which gets its options when it is first used."""

    add_options: Callable[[_Parser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        add_options, self.add_options = self.add_options, None
        if add_options is not None:
            add_options(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(statuses.USAGE, f"{self.prog}: {message} (see '{self.prog} --help')\n")


class _Version(argparse.Action):
    """Prints the version, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from drumfire.loadgen.version import VERSION

        print(f"drumfire {VERSION}")
        parser.exit()


def program() -> NoReturn:
    """Run the process ``drumfire``: ``main``, and end with its exit status."""
    interrupts.install()
    status = main()
    interrupts.leave()
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default this process's own, and return the exit status.

    ``options.words`` are the arguments, because a result names the command that it comes from.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = _parser().parse_args(words, argparse.Namespace(words=words))
        status: int = options.command(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("drumfire: interrupted before anything was measured", file=sys.stderr)
        return statuses.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, so an error message would reach nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return statuses.USAGE
    except Exception as error:
        if not isinstance(error, errors.expected()):
            raise
        print(f"drumfire: {error}", file=sys.stderr)
        return statuses.USAGE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="drumfire",
        description="An MLPerf-style benchmark: exact traffic, honest latency, any model.",
        epilog="Exit status: 0 VALID, 1 INVALID, 2 wrong usage or input, 130 interrupted (what was measured is saved).",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show program's version number and exit"
    )
    commands = parser.add_subparsers(title="commands", required=True, parser_class=_Parser, metavar="COMMAND")
    _add_run(commands)
    _add_audit(commands)
    _add_calibrate(commands)
    _add_prepare(commands)
    _add_cluster(commands)
    _add_serve(commands)
    listing = commands.add_parser("models", help="list the models and what each needs")
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    listing.add_argument("--table", action="store_true", help="print which backend takes which model, as Markdown")
    listing.set_defaults(command=_command("models", "show"))
    doctor = commands.add_parser("doctor", help="check this machine: packages, clocks, timers, GPUs")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(command=_command("doctor"))
    local = commands.add_parser("triton-local", help="start a real Triton server on this machine, to try remote runs")
    local.add_argument("--json", action="store_true", help="print one JSON object when it is ready")
    local.set_defaults(command=_command("triton_local"))
    return parser


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    run = commands.add_parser(
        "run",
        help="drive a model with MLPerf traffic and judge the result",
        description="Drive a system under test through one MLPerf scenario and judge the result.",
        epilog="A first look: drumfire run onnxruntime digits cpu --scenario Server --qps 500 --time 10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_options = _add_run_options
    run.set_defaults(command=_command("run"))


def _add_audit(commands: argparse._SubParsersAction[_Parser]) -> None:
    audit = commands.add_parser(
        "audit",
        help="do a run and the same run under an audit's rules, and check that they agree",
        description="Audit a system: TEST01 compares the answers of a performance run with those of an accuracy run, "
        "TEST04 sends one sample over and over, which must not be faster, TEST05 uses other seeds.",
        epilog="For example: drumfire audit TEST04 onnxruntime digits cpu --scenario Offline --time 60",
    )
    audit.add_options = _add_audit_options
    audit.set_defaults(command=_command("audit"))


def _add_audit_options(audit: _Parser) -> None:
    audit.add_argument("test", choices=("TEST01", "TEST04", "TEST05"), metavar="TEST", help="TEST01, TEST04 or TEST05")
    _add_run_options(audit)


def _add_run_options(run: _Parser) -> None:
    from drumfire.loadgen import Scenario
    from drumfire.loadgen.rounds import DEFAULT_ROUND, SEEDS
    from drumfire.loadgen.run import DEFAULT_PATIENCE_S
    from drumfire.sut import models
    from drumfire.sut.local import backends

    run.add_argument(
        "backend", metavar="BACKEND", help=f"what computes: {', '.join((*backends.BACKENDS, 'triton', 'null'))}"
    )
    run.add_argument(
        "model",
        metavar="MODEL",
        help=f"what is computed: {', '.join(models.MODELS)}, an .onnx file, or a name on the server",
    )
    run.add_argument(
        "device", metavar="DEVICE", nargs="?", default="cpu", choices=backends.DEVICES, help="cpu (default) or gpu"
    )
    traffic = run.add_argument_group("traffic")
    traffic.add_argument(
        "--scenario",
        default=Scenario.SingleStream.name,
        choices=[scenario.name for scenario in Scenario],
        metavar="NAME",
        help="SingleStream (default), MultiStream, Server or Offline",
    )
    traffic.add_argument("--accuracy", action="store_true", help="send every sample once and judge the answers instead")
    traffic.add_argument(
        "--submission", action="store_true", help="the accuracy run and then the performance run, in one set of logs"
    )
    traffic.add_argument(
        "--find-peak-performance", action="store_true",
        help="search for the highest load that is VALID: queries a second in Server, samples a query in MultiStream "
        "(with --max-latency); to resume a search that was interrupted, give its --output again",
    )  # fmt: skip
    traffic.add_argument(
        "--until-confident", type=_positive(float), nargs="?", const=0.0, metavar="S",
        help="Server: continue beyond --time until early stopping is decided, S seconds at most (default: 4 x --time)",
    )  # fmt: skip
    traffic.add_argument(
        "--qps", type=_positive(float), metavar="F", help="Server: queries a second to send; Offline: expected samples "
        "a second, which sizes the one query (default: from a short measurement before the run)",
    )  # fmt: skip
    traffic.add_argument(
        "--time", type=_positive(float), metavar="S",
        help="least duration of the run in seconds (default: 600, as the MLPerf rules ask)",
    )  # fmt: skip
    traffic.add_argument(
        "--count", type=_positive(int), metavar="N",
        help="issue exactly N queries, and use only the first N samples of the data set",
    )  # fmt: skip
    traffic.add_argument(
        "--max-latency", type=_positive(float), metavar="S", help="Server: latency bound of a query in seconds"
    )
    traffic.add_argument(
        "--samples-per-query", type=_positive(int), metavar="N", help="MultiStream: samples in a query (default: 8)"
    )
    traffic.add_argument(
        "--performance-sample-count", type=_positive(int), metavar="N",
        help="samples that a performance run keeps in memory and sends",
    )  # fmt: skip
    traffic.add_argument("--user-conf", type=Path, metavar="F", help="a user.conf file, as the reference reads it")
    traffic.add_argument(
        "--audit-conf", type=Path, metavar="F", help="an audit.config file, which overrides all other settings"
    )
    traffic.add_argument(
        "--round", default=DEFAULT_ROUND, choices=list(SEEDS), help=f"round of the seeds (default: {DEFAULT_ROUND})"
    )
    system = run.add_argument_group("system under test")
    system.add_argument(
        "--max-batchsize", type=_positive(int), metavar="N",
        help="largest batch (default: 32; triton: samples in a request, 1 by default, so that the server batches)",
    )  # fmt: skip
    system.add_argument(
        "--max-queue-delay", type=_at_least_zero, default=0.0, metavar="MS",
        help="how long a sample may wait for a fuller batch, ms (default: 0: a free worker takes what is waiting)",
    )  # fmt: skip
    system.add_argument(
        "--threads", type=_positive(int), metavar="N",
        help="threads of the model (default: all cores but one, which the generator uses)",
    )  # fmt: skip
    system.add_argument(
        "--instances", type=_positive(int), default=1, metavar="N", help="copies of the model that work side by side"
    )
    system.add_argument(
        "--precision", choices=backends.PRECISIONS, metavar="KIND",
        help="what the backend computes in, where it has a choice (pytorch): fp32 (default), bf16, fp16, and tf32 on "
        "GPUs",
    )  # fmt: skip
    system.add_argument(
        "--compile", choices=backends.COMPILE_MODES, metavar="MODE",
        help="pytorch: compile the network before the run, default or max-autotune (default: no compilation)",
    )  # fmt: skip
    system.add_argument("--dataset-path", type=Path, metavar="D", help="folder of the model's data set")
    system.add_argument("--weights", type=Path, metavar="F", help="a local file of weights instead of the model's own")
    _add_remote(run)
    result = run.add_argument_group("result")
    result.add_argument("--output", type=Path, metavar="D", help="folder of the run (default: a new one in ./runs)")
    result.add_argument("--json", action="store_true", help="print only the result, as one JSON object")
    result.add_argument("--trace", action="store_true", help="write mlperf_log_trace.json too, for Perfetto or Chrome")
    result.add_argument("--no-dashboard", action="store_true", help="show no live view")
    result.add_argument(
        "--patience", type=_positive(float), default=DEFAULT_PATIENCE_S, metavar="S",
        help=f"end the run after S seconds without any answer (default: {DEFAULT_PATIENCE_S:g})",
    )  # fmt: skip
    _add_fleet(run)


def _add_remote(run: _Parser) -> None:
    from drumfire.sut import models

    remote = run.add_argument_group("remote servers (BACKEND triton)")
    remote.add_argument(
        "--url", action="append", metavar="URL",
        help="grpc://HOST:8001, http://HOST:8000, or grpcs:// and https:// over TLS; repeat it for several servers",
    )  # fmt: skip
    remote.add_argument(
        "--client", choices=("drumfire", "tritonclient"), default="drumfire", metavar="NAME",
        help="client to use: drumfire (default), or for comparison Triton's own client library, tritonclient",
    )  # fmt: skip
    remote.add_argument(
        "--concurrency", type=_positive(int), metavar="N",
        help="most requests under way (default: Offline 64, and Server 64 through tritonclient; else no bound but "
        "--connections)",
    )  # fmt: skip
    remote.add_argument(
        "--connections", type=_positive(int), metavar="N",
        help="connections to each server (default: gRPC 1; HTTP, where each carries one request at a time, 1 in "
        "SingleStream, 1 for each sample in MultiStream, else 64 or --concurrency)",
    )  # fmt: skip
    remote.add_argument(
        "--balance", choices=("round-robin", "least-in-flight"), default="round-robin", metavar="HOW",
        help="which connection takes the next request: round-robin (default) or least-in-flight",
    )  # fmt: skip
    remote.add_argument("--model-version", default="", metavar="V", help="(default: the server chooses)")
    remote.add_argument(
        "--input", action="append", default=[], metavar="NAME:SHAPE",
        help="shape of an input whose sizes the model leaves open, without the batch, such as INPUT0:3,224,224",
    )  # fmt: skip
    remote.add_argument(
        "--input-data", metavar="WHAT",
        help=f"random (default), zero, a named data set ({', '.join(models.MODELS)}), a folder with INPUT.npy for each "
        "input, or a JSON file as perf_analyzer reads it; outputs in that file are compared with the replies",
    )  # fmt: skip
    remote.add_argument(
        "--shared-memory", choices=("none", "system", "cuda"), default="none", metavar="KIND",
        help="hand tensors over in shared memory, one sample a request, to a server on this host: none (default), "
        "system or cuda; at most 64 requests are under way, unless --concurrency says otherwise",
    )  # fmt: skip
    remote.add_argument(
        "--request-timeout", type=_positive(float), metavar="S",
        help="a request without a reply after S seconds fails (default: no timeout; see --patience)",
    )  # fmt: skip
    remote.add_argument(
        "--max-message-size", type=_positive(int), default=64, metavar="MB",
        help="largest reply to accept, MiB (default: 64)",
    )  # fmt: skip
    remote.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'",
        help="sent with every request, such as 'authorization: Bearer TOKEN'",
    )  # fmt: skip
    remote.add_argument("--tls-ca", type=Path, metavar="F", help="certificates to trust (default: the system's)")
    remote.add_argument("--tls-cert", type=Path, metavar="F", help="client certificate, if the server requires one")
    remote.add_argument("--tls-key", type=Path, metavar="F", help="the key of --tls-cert")
    remote.add_argument(
        "--metrics-url", action="append", metavar="URL",
        help="the server's Prometheus metrics, one for each --url (default: port 8002 of its host, if it answers)",
    )  # fmt: skip


def _add_fleet(run: _Parser) -> None:
    fleet = run.add_argument_group("many generators, one schedule (BACKEND triton)")
    fleet.add_argument(
        "--workers", type=_positive(int), metavar="N",
        help="send from N processes, each sending every N-th query; with --hosts: N on each host; each process has its "
        "own connections and a share of --concurrency",
    )  # fmt: skip
    fleet.add_argument(
        "--hosts", type=_positive(int), metavar="N", help="send from N hosts of a Ray cluster (see drumfire cluster)"
    )
    fleet.add_argument(
        "--ray-address", metavar="HOST:PORT", help="the cluster's head (default: that of this host's cluster)"
    )
    fleet.add_argument(
        "--on-host-loss", choices=("continue", "abort"), default="continue", metavar="HOW",
        help="if a generator is lost, which makes the run INVALID: continue (default) with the others, or abort",
    )  # fmt: skip
    fleet.add_argument(
        "--independent-streams", action="store_true",
        help="SingleStream and MultiStream: each generator is a stream by itself; the result says so",
    )  # fmt: skip


def _add_cluster(commands: argparse._SubParsersAction[_Parser]) -> None:
    cluster = commands.add_parser(
        "cluster", help="manage the hosts that drumfire run --hosts sends from (a Ray cluster)"
    )
    tasks = cluster.add_subparsers(title="what", required=True, parser_class=_Parser, metavar="WHAT")
    up = tasks.add_parser("up", help="start the cluster's head on this host")
    up.add_argument("--port", type=_positive(int), default=6379, metavar="N", help="(default: 6379)")
    up.add_argument("--load-on-head", action="store_true", help="let the head's host send load as well")
    join = tasks.add_parser("join", help="let this host send load; it needs the head's token")
    join.add_argument("address", metavar="ADDRESS", help="the head's HOST:PORT")
    down = tasks.add_parser("down", help="end only what up and join started on this host")
    status = tasks.add_parser("status", help="show what runs here and the cluster's hosts")
    status.add_argument("address", metavar="ADDRESS", nargs="?", help="a head's HOST:PORT (default: this host's)")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    for parser, default in ((up, "127.0.0.1, to try it out on one host"), (join, "the one that reaches the head")):
        parser.add_argument("--host", metavar="IP", help=f"this host's address for the others (default: {default})")
    for name, parser in (("up", up), ("join", join), ("down", down), ("status", status)):
        parser.set_defaults(command=_command("cluster", name))


def _add_calibrate(commands: argparse._SubParsersAction[_Parser]) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="measure this machine's own ceiling and lateness, with a system that answers at once",
        description="Measure how fast and how late this machine issues by itself, with a system that answers at once: "
        "Server at 1,000 to 1,000,000 queries a second and up to its ceiling, then the other scenarios.",
    )
    calibrate.add_options = _add_calibrate_options
    calibrate.set_defaults(command=_command("calibrate"))


def _add_calibrate_options(calibrate: _Parser) -> None:
    from drumfire.loadgen import Scenario

    calibrate.add_argument(
        "--scenario", choices=[scenario.name for scenario in Scenario], metavar="NAME", help="this scenario only"
    )
    calibrate.add_argument(
        "--qps", type=_positive(float), metavar="F", help="Server at this one rate, without the search for the "
        "ceiling; with --scenario Offline: expected samples a second, which sizes the one query",
    )  # fmt: skip
    calibrate.add_argument(
        "--time", type=_positive(float), default=1.0, metavar="S",
        help="seconds for each row of the table (default: 1); less where the queries would fill the memory",
    )  # fmt: skip
    calibrate.add_argument("--json", action="store_true", help="print one JSON object")


def _add_prepare(commands: argparse._SubParsersAction[_Parser]) -> None:
    prepare = commands.add_parser("prepare", help="fetch, generate or check data and weights")
    tasks = prepare.add_subparsers(title="what", required=True, parser_class=_Parser, metavar="WHAT")
    kinds = ("imagenet", "coco", "openimages")
    fake = tasks.add_parser("fake", help="generate a data set in a real one's layout, with labels and annotations")
    fake.add_argument("kind", metavar="KIND", choices=kinds, help=", ".join(kinds))
    fake.add_argument("--count", type=_positive(int), default=500, metavar="N", help="pictures (default: 500)")
    fake.add_argument("--output", type=Path, metavar="D", help="where (default: ./fake_KIND)")
    fake.set_defaults(command=_command("prepare", "fake_data"))
    check = tasks.add_parser("check", help="check that a data folder is complete, and show what is missing")
    check.add_argument("kind", metavar="KIND", choices=kinds, help=", ".join(kinds))
    check.add_argument("--dataset-path", type=Path, metavar="D", help="the folder (default: $DATA_DIR)")
    check.set_defaults(command=_command("prepare", "check_data"))
    weights = tasks.add_parser("weights", help="fetch the published weights of a model; resumes where it stopped")
    weights.add_argument("model", metavar="MODEL")
    weights.add_argument("--file", metavar="NAME", help="published file to fetch (default: the ONNX file)")
    weights.add_argument("--url", metavar="URL", help="fetch it from here instead, such as a mirror")
    weights.set_defaults(command=_command("prepare", "weights"))
    quantize = tasks.add_parser("quantize", help="make a model's int8 ONNX file for onnxruntime, and compare the two")
    quantize.add_options = _add_quantize_options
    quantize.set_defaults(command=_command("prepare", "quantize"))


def _add_quantize_options(quantize: _Parser) -> None:
    from drumfire.sut import models

    quantize.add_argument("model", metavar="MODEL", help=", ".join(models.MODELS))
    quantize.add_argument("--weights", type=Path, metavar="F", help="the ONNX file (default: the model's own)")
    quantize.add_argument("--dataset-path", type=Path, metavar="D", help="folder of the model's data set")
    quantize.add_argument(
        "--count", type=_positive(int), metavar="N", help="judge both on the first N samples (default: all)"
    )
    quantize.add_argument(
        "--calibration-count", type=_positive(int), default=100, metavar="N",
        help="samples to take the activations' ranges from (default: 100)",
    )  # fmt: skip
    quantize.add_argument("--output", type=Path, metavar="F", help="the file to write (default: one in the cache)")


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve models over HTTP and gRPC, as Triton's clients and 'drumfire run triton' speak them",
        description="Serve models of this process by the KServe v2 protocol over HTTP and gRPC, with dynamic batching "
        "over all connections, until Ctrl-C or SIGTERM: then requests under way are answered first.",
        epilog="A first look: drumfire serve onnxruntime digits",
    )
    serve.add_options = _add_serve_options
    serve.set_defaults(command=_command("serve"))


def _add_serve_options(serve: _Parser) -> None:
    from drumfire.sut import models
    from drumfire.sut.local import backends

    serve.add_argument("backend", metavar="BACKEND", help=f"what computes: {', '.join((*backends.BACKENDS, 'null'))}")
    serve.add_argument(
        "models", metavar="MODEL", nargs="+",
        help=f"{', '.join(models.MODELS)}, identity (built in, needs no backend: null identity), a file, or NAME=FILE; "
        "repeat a name for its next version",
    )  # fmt: skip
    # argparse cannot find an optional word after any number of models.
    serve.add_argument_group("DEVICE", "cpu (default) or gpu, as the last word after the models")
    serve.set_defaults(device="cpu")
    ports = serve.add_argument_group("ports (0: any free port)")
    ports.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (default: 127.0.0.1)")
    ports.add_argument("--http-port", type=_port, default=8000, metavar="N", help="(default: 8000)")
    ports.add_argument("--grpc-port", type=_port, default=8001, metavar="N", help="(default: 8001)")
    ports.add_argument("--metrics-port", type=_port, default=8002, metavar="N", help="Prometheus (default: 8002)")
    ports.add_argument("--tls-cert", type=Path, metavar="F", help="serve over TLS with this certificate")
    ports.add_argument("--tls-key", type=Path, metavar="F", help="the key of --tls-cert")
    ports.add_argument(
        "--token-file", type=Path, metavar="F",
        help="bearer tokens, one on each line: every request but health needs one; read again when it changes, "
        "or on SIGHUP",
    )  # fmt: skip
    batching = serve.add_argument_group("batching")
    batching.add_argument(
        "--max-batchsize",
        type=_positive(int),
        metavar="N",
        help="largest batch, and samples in a request (default: 32)",
    )
    batching.add_argument(
        "--max-queue-delay", type=_at_least_zero, default=0.0, metavar="MS",
        help="how long a request may wait for a fuller batch, ms (default: 0: a free worker takes what is waiting)",
    )  # fmt: skip
    batching.add_argument(
        "--preferred-batchsize", type=_whole_numbers, metavar="N,N", help="batches of these sizes do not wait"
    )
    batching.add_argument(
        "--max-queue", type=_positive(int), default=8192, metavar="N",
        help="most requests that may wait for a model; more are refused (default: 8192)",
    )  # fmt: skip
    system = serve.add_argument_group("models")
    system.add_argument(
        "--instances", type=_positive(int), default=1, metavar="N", help="copies of each model that work side by side"
    )
    system.add_argument(
        "--threads", type=_positive(int), metavar="N",
        help="threads of a model (default: all cores but one, which the connections use)",
    )  # fmt: skip
    system.add_argument("--precision", choices=backends.PRECISIONS, metavar="KIND", help="as in 'drumfire run'")
    system.add_argument("--compile", choices=backends.COMPILE_MODES, metavar="MODE", help="as in 'drumfire run'")
    serve.add_argument(
        "--drain-timeout", type=_at_least_zero, default=30.0, metavar="S",
        help="how long to wait at the end for requests under way, s (default: 30)",
    )  # fmt: skip
    serve.add_argument("--json", action="store_true", help="print one JSON object when it is ready")
    serve.add_argument("--no-dashboard", action="store_true", help="show no status view")


def _command(module: str, function: str | None = None) -> Callable[[argparse.Namespace], int]:
    """A command's function, by default named as its module, which is imported when the command runs."""

    def run(options: argparse.Namespace) -> int:
        commands = importlib.import_module(f"drumfire.bench.commands.{module}")
        status: int = getattr(commands, function or module)(options)
        return status

    return run


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        if not value > 0 or math.isinf(value):
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    return parse


def _port(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, not {text!r}")
    return value


def _whole_numbers(text: str) -> list[int]:
    try:
        values = [int(number) for number in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be whole numbers of at least 1, such as 4,8")
    return values


def _at_least_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value
