"""Around the settings of `config`: where their values come from, how they are told to people.

`sources` (flags, environment, TOML, and which wins), `reference` (docs/settings.md), `newcomers`
(flags and words that other servers have). Only the command line imports from here.
"""
