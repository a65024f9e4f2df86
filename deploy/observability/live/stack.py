"""The running stack: what `local-stack up` starts, and what is started beside it. Whatever is started here dies with this process, and `close` ends all by id."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

PATIENCE_S = 90
"""How long something may take that normally takes a second: others may need the machine, too."""
SERVERS = ("kafka", "postgres", "redis")


class Failed(Exception):
    """The run cannot go on."""


def eventually(what, look, patience=PATIENCE_S, every=0.2):
    """Looks until something is seen, and returns it."""
    deadline = time.monotonic() + patience
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise Failed(f"after {patience} s still not: {what}")
        time.sleep(every)


def get(url, token=None):
    """The body, or None where nobody answers with 200."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def descendants(pid):
    """The process and everything below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def is_dead(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


class Launched:
    """How a process was started, so that it can be started again: its program, arguments, variables and user."""

    def __init__(self, pid):
        folder = Path(f"/proc/{pid}")
        self.arguments = folder.joinpath("cmdline").read_bytes().decode().split("\0")[:-1]
        self.arguments[0] = os.readlink(folder / "exe")
        self.environment = dict(line.split("=", 1) for line in folder.joinpath("environ").read_bytes().decode().split("\0") if "=" in line)
        self.folder = os.readlink(folder / "cwd")
        owner = folder.stat()
        self.user = [] if owner.st_uid == os.getuid() else [f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups"]


class Stack:
    def __init__(self, programs, folder, faketime):
        self.programs, self.folder, self.faketime = programs, folder, faketime
        self.started, self.pids, self.launched, self.ports = [], {}, {}, {}
        self.environment, self.closing = {}, False

    def up(self):
        """Servers and the four services, and the reconciler, which looks every second."""
        self.local_stack("down")
        # Whoever ends this run with Ctrl-C ends it and not local-stack in the middle of its work.
        self.local_stack("up", "--no-build", "--no-sync")
        for line in self.local_stack("env").splitlines():
            name, value = line.split("=", 1)
            self.environment[name] = value.strip("'")
        for process in json.loads((self.folder / "state.json").read_text())["processes"]:
            self.pids[process["name"]] = process["pid"]
            self.launched[process["name"]] = Launched(process["pid"])
        for name, variable in [("api-gateway", "GATEWAY"), ("stock-consumer", "STOCK_CONSUMER"), ("db-writer", "DB_WRITER"), ("notifier", "NOTIFIER")]:
            self.ports[name] = int(self.environment[f"{variable}_OPS_URL"].rsplit(":", 1)[1])
        self.producer = Producer({"bootstrap.servers": self.environment["KAFKA_BOOTSTRAP"], "linger.ms": 0, "log_level": 0})
        self.admin = AdminClient({"bootstrap.servers": self.environment["KAFKA_BOOTSTRAP"], "log_level": 0})

    def local_stack(self, *arguments):
        command = [self.programs / "local-stack", arguments[0], "--dir", self.folder, *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
        if done.returncode:
            raise Failed(f"local-stack {arguments[0]}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def run(self, name, arguments, environment=None, folder=None, user=()):
        """Starts a process that dies with us; its output goes to a log of its own."""
        log = open(self.folder / "logs" / f"{name}.log", "ab")
        command = ["setpriv", "--pdeathsig", "KILL", *user, "--", *map(str, arguments)]
        process = subprocess.Popen(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        log.close()
        self.started.append(process)
        return process

    def add(self, name, like, changed=None, program=None, clock=None, until="readyz"):
        """One more service: as `like` was started, on ports of its own, with these settings changed, None: left out. clock: how far its clock is off, as faketime says it.
        until: the probe that is waited for."""
        launched = self.launched[like]
        environment = dict(launched.environment)
        for listener in ("OPS", "HTTP", "ADMIN"):
            if f"FIRSTCOME__{listener}__LISTEN" in environment:
                port = self.ports[name] if listener == "OPS" else free_port()
                environment[f"FIRSTCOME__{listener}__LISTEN"] = f"127.0.0.1:{port}"
        environment |= {f"FIRSTCOME__{key}": value for key, value in (changed or {}).items()}
        environment = {key: value for key, value in environment.items() if value is not None}
        if clock:
            environment |= {"LD_PRELOAD": str(self.faketime), "FAKETIME": clock, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        process = self.run(name, program or launched.arguments, environment, launched.folder)
        self.pids[name] = process.pid
        self.await_probe(name, process, until)
        self.launched[name] = Launched(process.pid)

    def add_reconciler(self, name, until="readyz"):
        """It knows what a stock-consumer knows, reads the view as its own user, looks every second, and makes pass after pass."""
        view = self.launched["stock-consumer"].environment["FIRSTCOME__REDIS__URL"].replace("//writer:", "//auditor:")
        # A letter that is lost behind the point where passes go on is seen by the next recount.
        often = {"RECONCILE__INTERVAL_S": "1", "RECONCILE__BUSY_PERCENT_MAX": "75", "RECONCILE__RECOUNT_S": "5", "REDIS__URL": view}
        self.add(name, "stock-consumer", often, [self.programs / "reconciler"], until=until)

    def await_probe(self, name, process, probe):
        url = f"http://127.0.0.1:{self.ports[name]}/{probe}"
        eventually(f"{name} answers on {probe}", lambda: get(url) or self.must_run(process, name))

    def must_run(self, process, name):
        if process.poll() is not None:
            log = (self.folder / "logs" / f"{name}.log").read_text(errors="replace")
            raise Failed(f"{name} has ended: {log[-1500:]}")

    def url(self, name, listener="HTTP"):
        return f"http://{self.launched[name].environment[f'FIRSTCOME__{listener}__LISTEN']}"

    def signal(self, name, number):
        for pid in descendants(self.pids[name]):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def suspend(self, name):
        self.signal(name, signal.SIGSTOP)

    def resume(self, name):
        self.signal(name, signal.SIGCONT)

    def kill(self, name):
        """Without warning; whoever is its parent need not have noticed."""
        self.signal(name, signal.SIGKILL)
        pid = self.pids.pop(name)
        for process in self.started:
            if process.pid == pid:
                process.wait()
        eventually(f"{name} is gone", lambda: is_dead(pid))

    def start_again(self, name, changed=None):
        """As it was started, with the same ports and data."""
        launched = self.launched[name]
        environment = launched.environment | {f"FIRSTCOME__{key}": value for key, value in (changed or {}).items()}
        process = self.run(name, launched.arguments, environment, launched.folder, launched.user)
        self.pids[name] = process.pid
        if name not in SERVERS:
            self.await_probe(name, process, "readyz")

    def couponctl(self, *arguments, may_fail=False):
        if self.closing:
            raise Failed("the stack is being stopped")
        command = ["setpriv", "--pdeathsig", "KILL", "--", self.programs / "couponctl", *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=os.environ | self.environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        self.started.append(process)
        said, complaint = process.communicate()
        self.started.remove(process)
        if process.returncode and not may_fail:
            raise Failed(f"couponctl {' '.join(arguments)}: {complaint.strip()}")
        return said

    def sql(self, statement):
        command = [shutil.which("psql") or "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.environment["DATABASE_URL"], "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{statement}: {done.stderr.strip()}")
        return done.stdout.strip()

    def redis(self, command):
        """An operator's command, in Redis' own words."""
        address = urllib.request.urlparse(self.environment["REDIS_URL"])
        with socket.create_connection((address.hostname, address.port), 10) as redis:
            if address.password:
                redis.sendall(f"AUTH {address.password}\r\n".encode())
                redis.recv(100)
            redis.sendall(f"{command}\r\n".encode())
            said = redis.recv(100)
        if not said.startswith(b"+OK"):
            raise Failed(f"{command} was answered {said}")

    def topic(self, name):
        return f"{self.environment['TOPIC_PREFIX']}{name}"

    def append(self, topic, partition, key, *records):
        for record in records:
            self.producer.produce(self.topic(topic), record, key, partition)
        if self.producer.flush(PATIENCE_S):
            raise Failed(f"{topic} did not take what was appended")

    def alter(self, topic, setting, value):
        """Gives a topic another setting, as an operator would."""
        entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.topic(topic), incremental_configs=[entry])
        for done in self.admin.incremental_alter_configs([resource]).values():
            done.result(PATIENCE_S)

    def delete_records(self, topic, partition):
        """Everything that is in the partition."""
        place = TopicPartition(self.topic(topic), partition, -1)
        for done in self.admin.delete_records([place]).values():
            done.result(PATIENCE_S)

    def close(self):
        """Ends everything, whatever state it is in."""
        self.closing = True
        for name in self.pids:
            try:
                self.resume(name)
            except PermissionError:
                continue
        # Services before the servers that they use: those that were started again are ours, and local-stack knows them no more.
        ours = {process.pid for process in self.started}
        servers = [name for name in SERVERS if self.pids.get(name) in ours]
        ending = [process for process in self.started if process.pid not in {self.pids[name] for name in servers}]
        for process in ending:
            process.terminate()
        for process in ending:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in servers:
            self.kill(name)
        self.local_stack("down")
