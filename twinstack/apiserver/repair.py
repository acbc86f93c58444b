"""Services believed, records mended: IPAddresses and node ports are made to say what Services say (spec/api.md 4.9 and 5.7).

Rule of this file: one object at a time, and by what is stored at that moment; others are served in between, for there may be
many. What is wrong and cannot be mended is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from twinstack.api import kinds
from twinstack.api.errors import APIError, Conflict, NotFound
from twinstack.api.objects import Key, view_of
from twinstack.apiserver.allocators import HAS_PORT, IP_ADDRESSES, SERVICES, Context
from twinstack.apiserver.announcements import Announcements
from twinstack.apiserver.strategies.base import API
from twinstack.rules import address_records, port_records

log = logging.getLogger(__name__)

BREATH: Final = 256  # objects looked at before others are served


class Repair:
    """Brings the records of what is allocated into agreement with the Services."""

    def __init__(self, api: API, context: Context, announcements: Announcements, now: Callable[[], datetime]) -> None:
        self._api, self._context, self._announcements, self._now = api, context, announcements, now

    async def all(self) -> None:
        """Bring everything into agreement, Services first."""
        self._announcements.begin_pass()
        survey = await self._survey()
        seen = 0
        for keys, findings in ((survey.services, self._findings_about_service), (survey.records, self._findings_about_record)):
            for key in keys:
                await self._mend(findings(key))
                seen += 1
                if seen % BREATH == 0:
                    await asyncio.sleep(0)

        holders = port_records.Holders(self._context.ports.range)
        for seen, document in enumerate(self._api.reader.each(SERVICES, HAS_PORT), 1):
            for about, reason, message in holders.findings(document):
                with contextlib.suppress(APIError):  # it is in the log
                    await self._announcements.tell(about, reason, message, action="PortAllocation")
            if seen % BREATH == 0:
                await asyncio.sleep(0)
        self._announcements.begin_pass()

    async def _survey(self) -> address_records.Survey:
        """Look at everything once, quickly; what changes meanwhile is judged by what it is then."""
        survey = address_records.Survey(self._context.addresses.strays())
        for seen, (key, record) in enumerate(self._api.reader.views(IP_ADDRESSES, address_records.RecordSketch), 1):
            survey.take_record(key, record)
            if seen % BREATH == 0:
                await asyncio.sleep(0)
        for seen, (key, service) in enumerate(self._api.reader.views(SERVICES, address_records.HolderSketch), 1):
            survey.take_service(key, service)
            if seen % BREATH == 0:
                await asyncio.sleep(0)
        return survey

    async def missing(self) -> None:
        """Write again the records that somebody deleted while Services have the addresses."""
        for key in self._context.holders_to_mend():
            await self._mend(self._findings_about_service(key))

    async def _mend(self, findings: list[address_records.Finding]) -> None:
        for finding in findings:
            try:
                await self._act_upon(finding)
            except APIError as error:
                log.warning("An IPAddress could not be repaired: %s", error, extra={"address": finding.address})

    def _findings_about_service(self, key: Key) -> list[address_records.Finding]:
        holder = self._holder(key)
        if holder is None:
            return []
        return list(
            address_records.findings_about_service(key, holder, record_of=self._record, holder_of=self._holder, hands_out=self._context.addresses.contains)
        )

    def _findings_about_record(self, key: Key) -> list[address_records.Finding]:
        record = self._record(key.name)
        return list(address_records.findings_about_record(record, holder_of=self._holder, now=self._now())) if record else []

    def _holder(self, key: Key) -> address_records.Holder | None:
        document = self._api.reader.get(SERVICES, key)
        return view_of(address_records.Holder, document) if document else None

    def _record(self, name: str) -> kinds.IPAddress | None:
        document = self._api.reader.get(IP_ADDRESSES, Key("", name))
        return view_of(kinds.IPAddress, document) if document else None

    async def _act_upon(self, finding: address_records.Finding) -> None:
        if finding.remove:
            with contextlib.suppress(NotFound, Conflict):  # somebody else was faster
                await self._api.delete(IP_ADDRESSES, Key("", finding.address))
        if finding.record is not None:
            await self._api.create(IP_ADDRESSES, finding.record)
        if finding.reason:
            await self._announcements.tell(finding.about, finding.reason, finding.message, action=finding.action)
