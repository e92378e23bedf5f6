# SPDX-License-Identifier: Apache-2.0
"""AXI4 slave memory in Python: one channel, random stalls, checks of the master's manners."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Get = Callable[[str], int]


@dataclass(frozen=True)
class Behaviour:
    """How a memory answers; stall rates are probabilities."""

    latency: int = 4
    jitter: int = 0
    stall: float = 0.0
    reorder: bool = False
    read_errors: range = range(0)
    write_errors: range = range(0)


@dataclass
class Burst:
    """A burst that is not finished; ``addr`` is that of the next beat."""

    addr: int
    left: int
    id: int
    ready: int
    error: bool = False


class AxiSlave:
    """One AXI channel; `memory` is (beats, channel_bytes) uint8 and is changed in place."""

    def __init__(self, prefix: str, memory: np.ndarray, behaviour: Behaviour, seed: int, *, alone: bool) -> None:
        self.prefix = prefix
        self.alone = alone
        self.memory = memory
        self.width = memory.shape[1]
        self.behaviour = behaviour
        self.rng = random.Random(seed)
        self.reads: list[deque[Burst]] = [deque(), deque()]
        self.writes: deque[Burst] = deque()
        self.replies: deque[Burst] = deque()
        outputs = "arready rvalid rid rdata rresp rlast awready wready bvalid bid bresp".split()
        self.out = dict.fromkeys(outputs, 0)
        self.held: dict[str, tuple[int, ...]] = {}
        self.requests: list[tuple[int, int, int, int]] = []  # (cycle, id, address, beats)
        self.strobes: list[tuple[int, int]] = []  # (cycle, strobes) of every beat written
        self.write_requests: list[int] = []  # cycles
        self.beats_read = 0
        self.beats_written = 0
        self.cycle = 0
        self.order: deque[int] = deque()

    def drive(self) -> dict[str, int]:
        return {f"{self.prefix}_{name}": value for name, value in self.out.items()}

    def _go(self) -> bool:
        return self.rng.random() >= self.behaviour.stall

    def _due(self) -> int:
        return self.cycle + self.behaviour.latency - 1 + self.rng.randint(0, self.behaviour.jitter)

    def _request(self, get: Get, kind: str) -> Burst:
        addr, beats = get(f"{kind}addr"), get(f"{kind}len") + 1
        assert get(f"{kind}burst") == 1 and 1 << get(f"{kind}size") == self.width, "INCR, full width"
        assert addr % self.width == 0 and addr % 4096 + beats * self.width <= 4096, "alignment, 4 KiB"
        assert addr + beats * self.width <= self.memory.size, "outside the memory"
        return Burst(addr, beats, get(f"{kind}id"), self._due())

    def _stable(self, get: Get) -> None:
        for kind, names in (
            ("ar", ("id", "addr", "len")),
            ("aw", ("id", "addr", "len")),
            ("w", ("data", "strb", "last")),
        ):
            now = tuple(get(kind + name) for name in names)
            if kind in self.held:
                assert get(f"{kind}valid") and self.held[kind] == now, f"{kind} changed before it was taken"
            self.held.pop(kind, None)
            if get(f"{kind}valid") and not self.out[f"{kind}ready"]:
                self.held[kind] = now

    def observe(self, full_get: Get) -> None:
        def get(name: str) -> int:
            return full_get(f"{self.prefix}_{name}")

        self._stable(get)
        out = self.out
        # Loads and fetches reserve room before they ask; only the lockstep of several channels may wait.
        assert get("rready") or not out["rvalid"] or not self.alone, "read data was refused"
        if out["rvalid"] and get("rready"):
            out["rvalid"] = 0
            self.beats_read += 1
        if out["bvalid"] and get("bready"):
            out["bvalid"] = 0
        if out["arready"] and get("arvalid"):
            burst = self._request(get, "ar")
            self.requests.append((self.cycle, burst.id, burst.addr, burst.left))
            self.reads[burst.id].append(burst)
            self.order.append(burst.id)
        if out["wready"] and get("wvalid"):
            self._write(get)
        if out["awready"] and get("awvalid"):
            self.writes.append(self._request(get, "aw"))
            self.write_requests.append(self.cycle)
        self._respond()
        self.cycle += 1

    def _write(self, get: Get) -> None:
        burst = self.writes[0]
        assert get("wlast") == (burst.left == 1), "WLAST"
        strobes, data = get("wstrb"), get("wdata")
        self.strobes.append((self.cycle, strobes))
        if burst.addr in self.behaviour.write_errors:
            burst.error = True
        else:
            for i in range(self.width):
                if strobes >> i & 1:
                    self.memory[burst.addr // self.width, i] = data >> (8 * i) & 0xFF
        self.beats_written += 1
        burst.addr += self.width
        burst.left -= 1
        if not burst.left:
            burst.ready = self._due()
            self.replies.append(self.writes.popleft())

    def _respond(self) -> None:
        out = self.out
        if not out["rvalid"] and self._go():
            ids = [i for i in (0, 1) if self.reads[i] and self.reads[i][0].ready <= self.cycle]
            if not self.behaviour.reorder:
                ids = [i for i in ids if i == self.order[0]]
            if ids:
                chosen = self.rng.choice(ids)
                burst = self.reads[chosen][0]
                error = burst.addr in self.behaviour.read_errors
                word = int.from_bytes(self.memory[burst.addr // self.width].tobytes(), "little")
                out |= {"rvalid": 1, "rid": chosen, "rdata": word, "rresp": 2 * error, "rlast": burst.left == 1}
                burst.addr += self.width
                burst.left -= 1
                if not burst.left:
                    self.reads[chosen].popleft()
                    self.order.remove(chosen)
        if not out["bvalid"] and self.replies and self.replies[0].ready <= self.cycle and self._go():
            reply = self.replies.popleft()
            out |= {"bvalid": 1, "bid": reply.id, "bresp": 2 * reply.error}
        out["arready"] = int(self._go())
        out["awready"] = int(self._go())
        out["wready"] = int(bool(self.writes) and self._go())
