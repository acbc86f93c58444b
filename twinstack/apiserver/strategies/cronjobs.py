"""CronJobs: Jobs at set times."""

from __future__ import annotations

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.apiserver.strategies.typed import Observed
from twinstack.rules import cronjob_validation
from twinstack.rules.pod_types import check_pod_types


class CronJobs(Observed):
    """When Jobs are made, and of what."""

    def fill(self, document: Document) -> None:
        job = ((document.get("spec") or {}).get("jobTemplate") or {}).get("spec") or {}
        check_pod_types((job.get("template") or {}).get("spec") or {}, template=True)
        cronjob_validation.default_cron_job(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return cronjob_validation.problems_with_cron_job(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return [] if subresource == "status" else cronjob_validation.problems_with_cron_job(after, before)
