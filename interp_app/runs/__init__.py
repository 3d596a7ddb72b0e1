"""Runs: experiments as rows with states, a claim, an event log, tiles and artifacts."""
