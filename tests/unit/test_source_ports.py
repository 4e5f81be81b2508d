from inroad.daemon.source_ports import apart


def test_ports_are_apart_from_those_that_the_kernel_gives_away():
    assert apart("32768\t60999\n") == range(61_000, 65_536)
    assert apart("32768\t65535\n") == range(24_576, 32_768)
    assert apart("2048\t65000\n") == range(1_024, 2_048)


def test_where_all_are_given_away_none_is_apart():
    assert not apart("1024\t65535\n")
