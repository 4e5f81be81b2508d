"""The workstation's operating system: told the whole wanted state, it is made so, and put back.

* `vif`: the virtual network interface and its packet loop; `routes`; `resolver`. Each has its contract in
  `api`, one file per back end, and `choose`, which picks one and says why.
* `journal`: what is about to be changed, written down before; `cleanup` puts it back after a crash.
* `run`: starts the system's programs. `conversation`: a program with a user's rights that is handed something
  and answers; `user_windows`: users of Windows.
* `choose`: places, and taking a user's identity, by platform. `file_watch`: hears of changed files.
"""
