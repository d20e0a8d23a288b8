"""Checks of an installation, which change nothing: settings, broker, ledger, provider, recipients."""
