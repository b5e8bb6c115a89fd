"""A fleet with real models: signed releases, the artifacts behind them, certificates, a server."""

import copy
import hashlib
import http.server
import io
import json
import ssl
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from onnx import TensorProto, helper, numpy_helper

from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import load_key
from mailboat_schemas.content_key import (
    WrappedContentKey,
    content_key_id,
    device_key_id,
    wrap_to_device,
)
from mailboat_schemas.desired import Assignment, Offer, OfferWave, ReleaseRef
from mailboat_schemas.documents.release import document_digest
from mailboat_schemas.sealing import salt_of, seal
from trust_fleet import CLASS, EVERYBODY, FLEET, MODEL, TrustFleet, document

DEVICE = "kiosk-1"
MIB = 1 << 20


def affine(factor: float) -> bytes:
    """y = factor * x + 1 over [batch, 4]."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "one"], ["y"]),
        ],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.array(factor, np.float32), "factor"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def picky() -> bytes:
    """y = x for 0 to 3; onnxruntime raises for anything else: it is used as an index."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["y"]),
        ],
        "picky",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def looping(rounds: int = (1 << 63) - 1) -> bytes:
    """y = x, after so many rounds of a loop that carries it: it may take for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["carried"], ["carried_out"]),
            helper.make_node("Identity", ["condition"], ["condition_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["batch", 4]),
        ],
        [
            helper.make_tensor_value_info("condition_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_out", TensorProto.FLOAT, ["batch", 4]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        "looping",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [
            numpy_helper.from_array(np.array(rounds, np.int64), "rounds"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def golden(factor: float, plus: float = 1.0) -> bytes:
    """One sample, x = 0 1 2 3, and what y must be."""
    x = np.array([[[0, 1, 2, 3]]], np.float32)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"in.x": x, "out.y": x * np.float32(factor) + np.float32(plus)}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@dataclass
class ModelFleet(TrustFleet):
    """``artifacts`` are what a server would have, by digest."""

    artifacts: dict[str, bytes] = field(default_factory=dict)

    def copied(self) -> Self:
        """The same keys and everything signed so far; what follows does not touch the original."""
        other = copy.copy(self)
        other.roots, other.roles = list(self.roots), dict(self.roles)
        other.documents, other.artifacts = dict(self.documents), dict(self.artifacts)
        return other

    def model_release(
        self,
        version: str,
        *,
        model: bytes | None = None,
        factor: float = 2.0,
        samples: bytes | None = None,
        soak: dict[str, Any] | None = None,
        health: dict[str, Any] | None = None,
        approve: bool = True,
        security_version: int = 0,
        content_key: bytes | None = None,
        reference: bytes | None = None,
        serving: dict[str, Any] | None = None,
        code: dict[str, tuple[str, bytes]] | None = None,
        pipeline: dict[str, Any] | None = None,
        runtime: dict[str, Any] | None = None,
        **more: Any,
    ) -> ReleaseRef:
        """Sign a release of a small model; with nothing said it passes its trial and a 0 s soak.

        With a ``content_key`` its files are encrypted under it. ``code`` are files of its own, by
        path with their role.
        """
        files = {
            "m.onnx": ("model", model or affine(factor)),
            "golden.npz": ("golden", samples or golden(factor)),
        }
        files |= code or {}
        if reference is not None:
            files["reference.json"] = ("reference", reference)
        tensor = {"dtype": "float32", "shape": [-1, 4]}
        content = document(
            version,
            **more,
            security_version=security_version,
            interface={"inputs": [tensor | {"name": "x"}], "outputs": [tensor | {"name": "y"}]},
            variants=[
                {
                    "hardware_classes": [CLASS],
                    "files": [
                        {"path": path, "role": role} | self._file(data, content_key)
                        for path, (role, data) in files.items()
                    ],
                    "runtime": {"version": ">=1.18"} | (runtime or {}),
                    "peak_memory": 256 * MIB,
                    "health": {"soak": {"seconds": 0} | (soak or {})} | (health or {}),
                }
                | ({} if serving is None else {"serving": serving})
                | ({} if pipeline is None else {"pipeline": pipeline})
            ],
        ).canonical_bytes()
        self._sign(version, content, approve=approve)
        return ReleaseRef(version=version, digest=document_digest(content))

    def _file(self, content: bytes, content_key: bytes | None) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        described: dict[str, Any] = {"length": len(content), "sha256": sha256}
        if content_key is None:
            self._add(content)
            return described
        salt = salt_of(content_key, sha256, len(content))
        encrypted = b"".join(seal([content], content_key, salt))
        return described | {
            "sealed": {
                "content_key": content_key_id(content_key),
                "sha256": self._add(encrypted),
                "length": len(encrypted),
            }
        }

    def _add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.artifacts[digest] = content
        return digest

    def _sign(self, version: str, content: bytes, *, approve: bool) -> None:
        ci = load_key(self.directory / "ci" / f"{MODEL}.pem")
        names = {"model": MODEL, "version": version, "document": content}
        self.roles["release-vad"] = roles.add_release(
            self.roles["release-vad"], ci, now=self.now, **names
        )
        if approve:
            approver = load_key(self.directory / "approver" / f"{MODEL}.pem")
            self.roles["approval-vad"] = roles.add_approval(
                self.roles["approval-vad"],
                [approver],
                plan=EVERYBODY.to_custom(),
                now=self.now,
                **names,
            )
        self.documents[document_digest(content)] = content
        self.resign()

    def approve_again(self, ref: ReleaseRef) -> None:
        """After a withdrawal."""
        approver = load_key(self.directory / "approver" / f"{MODEL}.pem")
        self.roles["approval-vad"] = roles.add_approval(
            self.roles["approval-vad"],
            [approver],
            model=MODEL,
            version=ref.version,
            document=self.documents[ref.digest],
            plan=EVERYBODY.to_custom(),
            now=self.now,
        )
        self.resign()

    def current(self, ref: ReleaseRef, retry_epoch: int = 0) -> bytes:
        """A bundle in which this release is current."""
        return self.bundle(Assignment(model=MODEL, current=ref, retry_epoch=retry_epoch))

    def offered(self, ref: ReleaseRef, current: ReleaseRef | None, **offer: Any) -> bytes:
        """A bundle that offers this release to everybody."""
        waves = (OfferWave(upto="f" * 16, roster=100),)
        return self.bundle(
            Assignment(
                model=MODEL,
                current=current,
                offer=Offer(release=ref, rollout="all", waves=waves, **offer),
            )
        )


class Certificates:
    """A CA in a directory, and certificates by it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.ca = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.ca_path = directory / "ca.pem"
        self.ca_path.write_bytes(self.ca)

    def server(self) -> tuple[Path, Path]:
        """Certificate and key for localhost and 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        import ipaddress

        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        builder = self._builder(name, key.public_key()).add_extension(names, False)
        return self._write("server", builder, key)

    def device(self, device: str = DEVICE) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_device_name(device), key.public_key())
        return self._write(device, builder, key)

    def sign_request(self, request_pem: bytes, device: str) -> bytes:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        certificate = self._builder(_device_name(device), key).sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def _write(
        self, name: str, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey
    ) -> tuple[Path, Path]:
        certificate_path = self._directory / f"{name}.pem"
        key_path = self._directory / f"{name}.key"
        certificate = builder.sign(self._key, hashes.SHA256())
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate_path, key_path


def _device_name(device: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, device),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, FLEET),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "device"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "7"),
        ]
    )


class ArtifactServer:
    """HTTPS on loopback: artifacts by digest, one manifest, enrolment with one token."""

    TOKEN = "a-token-of-twenty-characters"

    def __init__(self, certificates: Certificates, artifacts: dict[str, bytes]) -> None:
        self.artifacts = artifacts
        self.manifest: bytes | None = None
        self.content_keys: dict[str, bytes] = {}  # by id; wrapped to `device_key` when asked for
        self.refuses_keys = 0  # the status of every answer about a content key, if not 0
        self.device_key = ec.generate_private_key(ec.SECP256R1())
        self.requests: list[str] = []
        self.refuses = 0  # the status of every answer about an artifact, if not 0
        self.stalls = False  # half of each artifact, and then nothing more
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self, "certificates": certificates})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificates.server())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def stall(self) -> None:
        self._closing.wait(60)

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: ArtifactServer
    certificates: Certificates

    def do_GET(self) -> None:
        self.owner.requests.append(self.path)
        content = self.owner.artifacts.get(self.path.rpartition("/")[2])
        if self.path == f"/v1/manifests/{CLASS}":
            content = self.owner.manifest
        elif self.owner.refuses:
            self._answer(self.owner.refuses, b"")
            return
        self._answer(404 if content is None else 200, content or b"")

    def do_POST(self) -> None:
        self.owner.requests.append(self.path)
        if self.path.startswith("/v1/content-keys/"):
            self._give_content_key(self.path.rpartition("/")[2])
            return
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if request["token"] != self.owner.TOKEN:
            self._answer(403, b'{"title": "The token is spent."}')
            return
        certificate = self.certificates.sign_request(
            request["certificate_request"].encode(), request["device"]
        )
        answer = {
            "device": request["device"],
            "enrolment_number": 7,
            "hardware_class": CLASS,
            "site": "-",
            "labels": {"ring": "pilot"},
            "certificate": certificate.decode(),
        }
        self._answer(201, json.dumps(answer).encode())

    def _give_content_key(self, key_id: str) -> None:
        key = self.owner.content_keys.get(key_id)
        if key is None or self.owner.refuses_keys:
            self._answer(self.owner.refuses_keys or 404, b"")
            return
        to = self.owner.device_key.public_key()
        wrapped = wrap_to_device(key, to, fleet=FLEET, device=DEVICE)
        answer = WrappedContentKey.of(key_id, device_key_id(to), wrapped)
        self._answer(200, answer.model_dump_json().encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.owner.stalls and "/artifacts/" in self.path:
            self.wfile.write(content[: len(content) // 2])
            self.owner.stall()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        pass
