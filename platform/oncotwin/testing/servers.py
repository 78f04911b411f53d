"""A real Apache Kafka broker for the tests, from Maven's jars.

It listens on this machine alone, keeps its data in a temporary folder and ends with the block that started it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

KAFKA_FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "kafka"
"""Where the POM and the log settings are: the tests run from a checkout, the wheel carries no broker."""

START_TIMEOUT_S = 180.0
"""A broker answers after 3 s on an idle machine; with two busy cores it was seen to take fifty."""
STOP_TIMEOUT_S = 20.0

_SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised_port},SECURE://127.0.0.1:{secure_port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
sasl.enabled.mechanisms=PLAIN
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_{user}="{password}";
"""


class ServerError(Exception):
    """A test server could not be fetched or started; the message names its log and what to do."""


class KafkaBroker:
    """One Kafka broker (KRaft, single node) on free loopback ports; use it as a context manager.

    It listens twice: in plain text, and with TLS and a password for the tests of those settings.
    """

    user = "oncotwin"
    password = "only-on-loopback"

    def __init__(self, folder: Path, port: int | None = None, advertised_port: int | None = None) -> None:
        """Prepare a broker; nothing is started.

        Args:
            folder: for its settings, data and log; made when missing, kept when the broker ends.
            port: of the plain-text listener; a free one when not given.
            advertised_port: where clients of that listener are sent, a proxy's; by default its own.
        """
        self._advertised_port = advertised_port
        self._folder = folder
        self._ports = _free_ports(3)
        if port is not None:
            self._ports[0] = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """HOST:PORT for clients."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def port(self) -> int:
        """Of the plain-text listener."""
        return self._ports[0]

    @property
    def url(self) -> str:
        """Address as the setting `log` takes it."""
        return f"kafka://{self.bootstrap}"

    @property
    def secure_url(self) -> str:
        """Address of the listener with TLS and a password."""
        return f"kafka://127.0.0.1:{self._ports[1]}"

    @property
    def secure_options(self) -> dict[str, object]:
        """What a client must say to the listener with TLS and a password."""
        return {
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(self._folder / "certificate.pem"),
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": self.user,
            "sasl_plain_password": self.password,
        }

    @property
    def log_file(self) -> Path:
        """What the broker printed."""
        return self._folder / "broker.log"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Fetch the jars where they are missing, format the data folder where it is new, start, wait until it answers.

        Raises:
            ServerError: Java or Maven is missing, or the broker ended or does not answer.
        """
        libs = fetch_kafka()
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = self._folder / "server.properties"
        self._write_settings(settings)
        if not (self._folder / "data" / "meta.properties").exists():
            self._format(libs, settings)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("java", "-Xmx512m", f"-Dlog4j2.configurationFile={KAFKA_FOLDER / 'log4j2.properties'}"),
                    *("-cp", f"{libs}/*", "kafka.Kafka", str(settings)),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self._wait_until_answering()

    def stop(self) -> None:
        """End it by its process id, gently at first; stopping twice is harmless."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End it at once, as a power cut would; `start` brings it back on the same ports and data."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_settings(self, settings: Path) -> None:
        """Settings with this object's ports, which differ from run to run, and a certificate where there is none."""
        if not (self._folder / "server.pem").exists():
            _write_certificate(self._folder)
        port, secure_port, controller_port = self._ports
        settings.write_text(
            _SERVER_PROPERTIES.format(
                folder=self._folder,
                port=port,
                secure_port=secure_port,
                controller_port=controller_port,
                advertised_port=self._advertised_port or port,
                user=self.user,
                password=self.password,
            )
        )

    def _format(self, libs: Path, settings: Path) -> None:
        """Give the data folder its cluster id."""
        # A leading dash would read as an option: with its highest bit cleared, the first byte gives a letter.
        chosen = uuid4().bytes
        cluster = base64.urlsafe_b64encode(bytes([chosen[0] & 0x7F]) + chosen[1:]).decode().rstrip("=")
        # The tool runs for a second: compiling it well would take longer than it runs.
        java = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*"]
        _output([*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings)])

    def _wait_until_answering(self) -> None:
        """Return once both listeners take connections."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        for port in self._ports[:2]:
            while not _answers(port):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise ServerError(f"the Kafka broker does not answer; its last words:\n{self._last_words()}")
                time.sleep(0.1)

    def _last_words(self) -> str:
        """The end of the log."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-20:])


def fetch_kafka() -> Path:
    """Copy the broker's jars from Maven, unless those of this POM are here already.

    Returns:
        The folder of the jars.
    Raises:
        ServerError: no POM (not a checkout), no Java 17, no Maven, or Maven failed.
    """
    pom = KAFKA_FOLDER / "pom.xml"
    libs = KAFKA_FOLDER / "libs"
    if not pom.exists():
        raise ServerError("deploy/kafka/pom.xml is missing: run from a checkout of the repository")
    _check_java()
    stamp = libs / ".pom-sha256"
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return libs
    if shutil.which("mvn") is None:
        raise ServerError("no `mvn` on the path; install Apache Maven 3.8 or later (on Debian and Ubuntu: maven)")
    shutil.rmtree(libs, ignore_errors=True)
    _output(
        [
            *("mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"),
            *(f"-DoutputDirectory={libs}", "-DincludeScope=runtime"),
        ]
    )
    stamp.write_text(digest)
    return libs


def _check_java() -> None:
    """Refuse to go on without Java 17, which this release of Kafka is compiled for."""
    remedy = "install a Java runtime, version 17 or later (on Debian and Ubuntu: openjdk-17-jre-headless)"
    if shutil.which("java") is None:
        raise ServerError(f"no `java` on the path; {remedy}")
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', said.stderr + said.stdout)
    if version is None or int(version[1]) < 17:
        raise ServerError(f"`java` is too old or does not say its version: {said.stderr.strip()[:200]!r}; {remedy}")


def _write_certificate(folder: Path) -> None:
    """A self-signed certificate for the loopback address: `certificate.pem`, and `server.pem` with its key."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "certificate.pem").write_bytes(chain)
    (folder / "server.pem").write_bytes(secret + chain)


def _output(command: list[str]) -> str:
    """What a command prints; its failure with its own words."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command[:4])} ... failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _free_ports(n_ports: int) -> list[int]:
    """Loopback ports nobody listens on now; all are held until the last is found, so they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n_ports)]
    try:
        return [found.getsockname()[1] for found in sockets]
    finally:
        for found in sockets:
            found.close()


def _answers(port: int) -> bool:
    """Whether something takes connections on a loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def main() -> None:
    """Run one broker in the foreground until it is interrupted; see deploy/kafka/README.md."""
    parser = argparse.ArgumentParser(prog="deploy/kafka/run", description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=Path("var/kafka"), help="of settings, data, log (%(default)s)")
    parser.add_argument("--port", type=int, help="of the plain-text listener (default: a free one)")
    parser.add_argument("--fetch", action="store_true", help="fetch the jars and end")
    arguments = parser.parse_args()
    broker = KafkaBroker(arguments.folder.resolve(), port=arguments.port)
    try:
        if arguments.fetch:
            fetch_kafka()
            return
        with broker:
            print(f"{broker.url} answers (process {broker.pid}, log {broker.log_file}); end it with Ctrl-C", flush=True)
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.pause()
    except KeyboardInterrupt:
        print("ended", flush=True)
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
