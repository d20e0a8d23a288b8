"""`python -m worker` is `provisioner`."""

from worker.cli import main

main()
