"""The pip settings that are passed to the build as a secret."""

from __future__ import annotations

import configparser

from container.pip_secret import make_conf, parse_listing

LISTING = """global.cert='/etc/ssl/ca.crt'
global.extra-index-url='file:///opt/a https://extra.example/simple'
global.find-links='/opt/wheels'
global.timeout='10'
:env:.index-url='https://user:word@index.example/simple'
:env:.timeout='180'
"""


def test_settings_that_name_local_files_are_left_out() -> None:
    conf = configparser.ConfigParser(interpolation=None)
    conf.read_string(make_conf(parse_listing(LISTING)))
    assert dict(conf["global"]) == {
        "extra-index-url": "https://extra.example/simple",
        "index-url": "https://user:word@index.example/simple",
        "timeout": "180",
    }


def test_without_settings_the_file_is_valid() -> None:
    conf = configparser.ConfigParser()
    conf.read_string(make_conf({}))
    assert dict(conf["global"]) == {}
