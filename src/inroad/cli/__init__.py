"""The `inroad` command: what users type and read. It holds no state; the daemon does.

* `main`: the command group, imported lazily one command at a time, and how errors end.
* `options`: what commands share: the output format and how an error is shown in it.
* `connect`, `status`, `quit`, `explain`, `version`: one command each. `serve` starts the
  long-running programs.
* `daemon_client`: HTTP over the daemon's Unix socket or pipe (`core/status.py` has what is said).
* `launch`: starting the privileged daemon, directly as root or through sudo; cleaning up after one.
* `environment`: what of the caller's environment goes along. `choose`: what the platform decides;
  `system_windows` and `pipe` are its part for Windows.
* `render`: statuses as text; `progress`: the steps of a connect on a terminal and elsewhere.

Start-up time is a feature: a command imports what it needs when it runs, nothing earlier.
"""
