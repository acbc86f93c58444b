"""``twinstack supervise``: the process behind a cluster; started by ``twinstack up``, not by hand."""

from __future__ import annotations

import json
import os
import socket

import click


@click.command("supervise", hidden=True)
@click.option("--name", required=True)
@click.option("--go-fd", type=int, required=True, help="Read from here; a line means that namespaces and keys are there.")
@click.option("--report-fd", type=int, required=True, help="Tell what happens here, a JSON object a line.")
@click.option("--listen-fd", type=int, required=True, help="The socket on the host's loopback that the API server serves, too.")
def command(name: str, go_fd: int, report_fd: int, listen_fd: int) -> None:
    """Look after a cluster until SIGTERM."""
    # Heavy: everything. It is imported once, here, for all processes of the cluster.
    from twinstack.lab import programs, supervisor
    from twinstack.lab.errors import LabError
    from twinstack.lab.places import Places
    from twinstack.lab.record import read_record
    from twinstack.loops import logs

    logs.configure()
    places = Places.of(name)
    programs.import_everything()
    supervisor.prepare()
    for descriptor in (go_fd, report_fd, listen_fd):
        os.set_inheritable(descriptor, False)
    reports = open(report_fd, "w", encoding="utf-8")  # noqa: SIM115 - open as long as somebody listens
    reports.write(json.dumps({"event": "imported"}) + "\n")
    reports.flush()
    with open(go_fd, "rb") as go:
        if not go.readline():
            return  # up was given up
    record = read_record(places)
    if record is None:
        raise LabError(f"there is no record of cluster {name}")
    topology = record.topology
    programs.write_files(topology, places)
    processes = programs.processes(topology, places, socket.socket(fileno=listen_fd))
    components = [name for process in processes for name in process.components]
    reports.write(json.dumps({"event": "begun", "components": components}) + "\n")
    reports.flush()

    def make(joined: str) -> list[supervisor.Process]:
        now = read_record(places)
        made = programs.processes(now.topology, places, None) if now is not None else []
        return [process for process in made if process.belongs_to(joined)]

    supervisor.Supervisor(places, processes, reports, verbosity=record.verbosity, make=make).run()
