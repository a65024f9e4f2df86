"""What users and operators do meanwhile: crowds, streams that stay open, wallets, redemptions, commands, and requests that are refused."""

import contextlib
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from .stack import Failed, eventually, get

PLENTY = 100_000
"""A coupon that nobody empties."""
FEW = 5
"""One that is soon sold out."""
BURST = 15
"""Presses of one user in a row; the gateway bears ten."""


class Load:
    def __init__(self, stack):
        self.stack, self.stopping, self.everyday = stack, threading.Event(), None

    def publish(self, quantity, name="Fried chicken"):
        """A coupon on offer that the gateway knows."""
        made = json.loads(self.stack.couponctl("coupon", "create", "--name", name, "--quantity", str(quantity), "--publish", "--output", "json"))
        url, token = f"{self.stack.url('api-gateway')}/v1/coupons/{made['coupon_id']}", self.token("somebody")
        eventually("the gateway knows the coupon", lambda: get(url, token=token))
        return made["coupon_id"], made["partition"]

    def prepare(self):
        """The coupon that crowds want, one that is soon gone, and a partition that has neither: it will be halted."""
        self.coupon, self.partition = self.publish(PLENTY)
        self.scarce, other = self.publish(FEW)
        partitions = range(int(self.stack.environment["TOPIC_PARTITIONS"]))
        self.spare = next(number for number in partitions if number not in (self.partition, other))

    def crowd(self, name, users, within_s, deadline_s=120):
        """Starts users who claim the coupon, by events and by asking."""
        arguments = ["--users", users, "--within-ms", int(within_s * 1000), "--deadline-s", deadline_s, "--connections-max", 200, "--threads", 1, "--shared"]
        return self.stack.run(name, [self.stack.programs / "loadgen", self.coupon, *arguments], os.environ | self.stack.environment)

    def start_everyday(self):
        self.everyday = threading.Thread(target=self.go_on, name="everyday", daemon=True)
        self.everyday.start()

    def stop(self):
        self.stopping.set()
        if self.everyday:
            self.everyday.join(30)

    def go_on(self):
        """Round after round, until the stack is stopped."""
        number = 0
        with contextlib.suppress(Failed):
            while not self.stopping.wait(1):
                number += 1
                self.round(number)

    def round(self, number):
        """What is refused while something is broken is refused."""
        user = f"everyday-{number}"
        won = self.stack.couponctl("claim", self.coupon, "--user", user, "--output", "json", may_fail=True)
        self.stack.couponctl("claim", self.scarce, "--user", user, may_fail=True)
        self.stack.couponctl("wallet", "--user", user, may_fail=True)
        if won.strip().startswith("{"):
            redeem = ["redeem", json.loads(won)["claim_id"], "--user", user, "--order-ref", f"order-{number}"]
            for _ in range(2):
                self.stack.couponctl(*redeem, may_fail=True)
        command = [["pause"], ["resume"], ["restock", "--delta", "1"]][number % 3]
        self.stack.couponctl("coupon", command[0], self.scarce, *command[1:], may_fail=True)
        self.press(self.coupon, None)
        if number % 5 == 0:
            token = self.token(user)
            for _ in range(BURST):
                self.press(self.coupon, token)

    def token(self, user):
        return self.stack.couponctl("token", user).strip()

    def press(self, coupon, token, gateway="api-gateway"):
        """The answer of a press, or None where it is refused."""
        url = f"{self.stack.url(gateway)}/v1/coupons/{coupon}/claims"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, b"", headers, method="POST"), timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.HTTPError, OSError):
            return None

    def open_streams(self, notifier, users):
        """Streams of undecided claims that stay open, as sockets."""
        address = urllib.parse.urlparse(self.stack.url(notifier))
        opened = []
        for user in users:
            pressed = self.press(self.coupon, self.token(user))
            if not pressed:
                raise Failed(f"{user} was refused")
            path = f"/v1/claims/{pressed['claim_id']}/events?token={pressed['stream_token']}"
            stream = socket.create_connection((address.hostname, address.port), 10)
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode())
            opened.append(stream)
        return opened


def ended(process, what, patience):
    """Waits for a crowd; it must have found nothing to complain about."""
    eventually(f"{what} has ended", lambda: process.poll() is not None, patience)
    if process.returncode:
        raise Failed(f"{what} ended with {process.returncode}")


def wait_until(moment):
    """Until a moment of time.time(); for what must last."""
    while (left := moment - time.time()) > 0:
        time.sleep(min(left, 1))
