"""What the webhook does by the clock, done as if it were later.

python -m tests.e2e.kube.ahead collect MINUTES    a round of the collector of templates
python -m tests.e2e.kube.ahead renew MINUTES      a round of the keeper of the certificate
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cgpu.adapters.admission_server import CertificateFiles
from cgpu.adapters.kube_objects import connect
from cgpu.adapters.webhook_certificates import WebhookCertificates
from cgpu.k8s.template_collector import TemplateCollector
from cgpu.k8s.webhook_configuration import MUTATING, VALIDATING
from tests.e2e.kube.webhooks import NAMESPACE

SECRET = "cgpu-webhook-certificate"
HOSTS = tuple(f"cgpu-webhook.{NAMESPACE}{suffix}" for suffix in (".svc", ".svc.cluster.local", ""))


def main() -> None:
    """Do it once, and tell what was done."""
    what, minutes = sys.argv[1:]
    now = datetime.now(UTC) + timedelta(minutes=float(minutes))
    with connect() as api, tempfile.TemporaryDirectory() as folder:
        if what == "collect":
            collector = TemplateCollector(api, NAMESPACE)
            print(collector.round(now))
            collector.stop()
        else:
            files = CertificateFiles(Path(folder) / "tls.crt", Path(folder) / "tls.key")
            keeper = WebhookCertificates(api, NAMESPACE, SECRET, HOSTS, files, (MUTATING, VALIDATING))
            print(keeper.round(now).name)


if __name__ == "__main__":
    main()
