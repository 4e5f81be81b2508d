from inroad.cli.environment import MAX_TOTAL, credential_environment


def test_what_a_plugin_may_need_goes_along() -> None:
    wanted = {
        "HOME": "/home/ada",
        "PATH": "/usr/bin",
        "KUBECONFIG": "a:b",
        "https_proxy": "http://p:1",
        "AWS_PROFILE": "dev",
    }
    assert credential_environment(wanted) == wanted


def test_what_changes_how_programs_load_stays_behind() -> None:
    loaders = {
        "LD_PRELOAD": "x",
        "LD_LIBRARY_PATH": "x",
        "PYTHONPATH": "x",
        "PYTHONSTARTUP": "x",
        "BASH_ENV": "x",
    }
    assert credential_environment(loaders | {"HOME": "/root"}) == {"HOME": "/root"}


def test_values_that_are_not_text_stay_behind() -> None:
    assert credential_environment({"RAW": "\udcff", "OK": "ü"}) == {"OK": "ü"}


def test_the_longest_go_first_when_there_is_too_much() -> None:
    chosen = credential_environment({"HOME": "/root", "HUGE": "x" * MAX_TOTAL, "PATH": "/bin"})
    assert chosen == {"HOME": "/root", "PATH": "/bin"}
