"""Lies as /opt/holoscan/app/__main__.py in the image: `python3 /opt/holoscan/app` is `-m app`.

A MAP's command names its application folder, which is how both this repository's Dockerfile and
``monai-deploy package`` start the application.
"""

import sys

from app.__main__ import main

sys.exit(main())
