"""Loads the reward that is to be served, and runs the server until it is told to end."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import sys

import uvicorn

from lit_rlhf.cli.devices import choose_device
from lit_rlhf.cli.refusal import refuse
from lit_rlhf.data.tokenization import load_tokenizer
from lit_rlhf.models.loading import resolve_scorer
from lit_rlhf.rewards.model import ModelReward
from lit_rlhf.rewards.named import names_model, reward_at_path
from lit_rlhf.rewards.remote import RemoteReward
from lit_rlhf.rewards.remote.server import RewardServer
from lit_rlhf.rewards.scoring import PartialReward

PATIENCE = 30
"""Seconds that requests have to end in when the server is told to."""


def serve_reward(arguments: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    listening = bind(arguments.host, arguments.port)
    with listening:
        reward = load_reward(arguments)
        token = None if arguments.token_env is None else os.environ[arguments.token_env].strip()
        server = RewardServer(
            reward,
            arguments.reward,
            arguments.batch_size,
            arguments.max_requests,
            arguments.max_mib << 20,
            token,
        )
        listening.listen(2048)  # from here on a connection is kept until the server takes it
        announce(arguments, listening)
        run_until_told(server, listening)
    print(f"ended; {server.scored} responses were scored", flush=True)


def bind(host: str, port: int) -> socket.socket:
    """A socket that has its port before anything is loaded, and listens only afterwards."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        refuse(f"--host {host}: {error.strerror or error}.")
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        refuse(f"--host {host} --port {port}: {error.strerror or error}.", "--port 0 takes a free port.")
    return listening


def load_reward(arguments: argparse.Namespace) -> PartialReward:
    """The model on its device, reading text whatever tokenizer a policy has; or the function."""
    if not names_model(arguments.reward):
        return reward_at_path(arguments.reward, arguments.timeout, "REWARD")
    device = choose_device(arguments.device)
    folder = resolve_scorer(arguments.reward)
    tokenizer = load_tokenizer(folder)
    reward = ModelReward(folder, tokenizer, tokenizer, arguments.batch_size)
    reward.shares_ids = False  # ids of several policies mean several things; text is what all of them send
    return reward.to(device)


def announce(arguments: argparse.Namespace, listening: socket.socket) -> None:
    """Where it listens, and what a config says to use it."""
    host, port = listening.getsockname()[:2]
    loopback = ipaddress.ip_address(host).is_loopback
    wildcard = ipaddress.ip_address(host).is_unspecified
    name = socket.gethostname() if wildcard else f"[{host}]" if ":" in host else host
    url = f"http://{name}:{port}"
    print(f"serving {arguments.reward} at {url} (Ctrl-C ends it)")
    if arguments.token_env is None:
        print(f"in a config:   reward: {url}")
        print(f"or as a flag:  --model.reward {url}", flush=True)
    else:
        init_args = f"{{url: '{url}', token_env: {arguments.token_env}}}"
        class_path = f"{RemoteReward.__module__}.{RemoteReward.__name__}"
        print(f"in a config:   reward: {{class_path: {class_path}, init_args: {init_args}}}", flush=True)
    if not loopback:
        asked = "who has the token" if arguments.token_env else "everybody"
        print(
            f"warning: {host} can be reached from other machines: {asked} there can have responses scored, and what is "
            "sent is not encrypted. Keep it within a network of yours"
            + ("." if arguments.token_env else ", and ask for a token (--token-env)."),
            file=sys.stderr,
            flush=True,
        )


def run_until_told(server: RewardServer, listening: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM; a second SIGINT does not wait for those inside."""
    config = uvicorn.Config(
        server.app,
        loop="asyncio",
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=PATIENCE,
    )
    # uvicorn gives a signal back after it has ended by it, and what is here then must not end it once more
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
