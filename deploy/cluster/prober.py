"""A user who opens a new connection for every press: whatever a rolling upgrade does to connections, this one meets it. Standard library alone."""

import asyncio
import base64
import collections
import hashlib
import hmac
import json
import threading
import time

# Longest wait for a connection and for an answer.
PATIENCE_S = 5
# How long accepted claims may take to have their outcomes, once the load is over. Each is asked for once at least.
OUTCOME_S = 60


def token(environment, user):
    """A user's token, as the services of a dev installation take it."""
    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
    claims = {"sub": user, "iss": environment["JWT_ISSUER"], "aud": environment["JWT_AUDIENCE"], "exp": int(time.time()) + 3600}
    signed = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps(claims).encode())
    mac = hmac.new(environment["JWT_SECRET"].encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + encode(mac)).decode()


async def request(base, method, path, bearer):
    """One request on a connection of its own: status and body."""
    host, _, port = base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port or 80))
    try:
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {bearer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
    finally:
        writer.close()
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        raise ConnectionResetError("the answer broke off")
    return int(head.split(maxsplit=2)[1]), body


class Prober:
    """Presses for a coupon at a steady rate until it is told to stop."""

    def __init__(self, environment, api, notifier, coupon, per_s):
        self.environment, self.api, self.notifier, self.coupon, self.per_s = environment, api, notifier, coupon, per_s
        self.sent = 0
        self.answers = collections.Counter()
        # What no user should meet: by kind, and when, in seconds since the start.
        self.failures = collections.Counter()
        self.when = []
        self.accepted = {}
        self.lost = []
        self.stopped = threading.Event()
        self.began = time.monotonic()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.thread.start()

    def stop(self, within_s=OUTCOME_S):
        """Ends the pressing, then asks for the outcome of every claim that was accepted."""
        self.stopped.set()
        self.thread.join()
        self.ask_for_outcomes(within_s)

    def ask_for_outcomes(self, within_s=OUTCOME_S):
        """Asks for all of them, again where it was done before."""
        self.lost = []
        asyncio.run(self._ask_for_outcomes(time.monotonic() + within_s))

    async def _run(self):
        presses, next_at = set(), time.monotonic()
        while not self.stopped.is_set():
            task = asyncio.create_task(self._press(self.sent))
            presses.add(task)
            task.add_done_callback(presses.discard)
            self.sent += 1
            next_at += 1 / self.per_s
            await asyncio.sleep(max(0, next_at - time.monotonic()))
        await asyncio.gather(*presses)

    async def _press(self, number):
        user = f"probe-{self.coupon[-6:]}-{number}"
        bearer = token(self.environment, user)
        sent_at = time.monotonic() - self.began
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, body = await request(self.api, "POST", f"/v1/coupons/{self.coupon}/claims", bearer)
        except TimeoutError:
            kind = "timeout"
        except ConnectionRefusedError:
            kind = "refused"
        except ConnectionError:
            kind = "reset"
        except OSError as error:
            kind = error.strerror or type(error).__name__
        else:
            if status == 202:
                self.accepted[json.loads(body)["claim_id"]] = bearer
            if status < 500:
                self.answers[status] += 1
                return
            kind = f"{status}"
        self.failures[kind] += 1
        self.when.append(round(sent_at, 1))

    async def _ask_for_outcomes(self, deadline):
        gate = asyncio.Semaphore(20)

        async def ask(claim, bearer):
            said = "nothing"
            async with gate:
                while said == "nothing" or time.monotonic() < deadline:
                    try:
                        async with asyncio.timeout(PATIENCE_S):
                            status, body = await request(self.notifier, "GET", f"/v1/claims/{claim}", bearer)
                        said = f"{status} {body[:200]!r}"
                        if status == 200 and json.loads(body)["status"] == "decided":
                            return
                    except (OSError, TimeoutError) as error:
                        said = repr(error)
                    await asyncio.sleep(0.2)
            self.lost.append((claim, said))

        await asyncio.gather(*(ask(claim, bearer) for claim, bearer in self.accepted.items()))
