"""Every kind of place that a store is read from. A new one is registered in this file and nowhere else."""

from __future__ import annotations

from trustfed.reading.location import AwsCredentials, Location
from trustfed.reading.sources.port import Source
from trustfed.runtime.bounded_http import Limits


def open_source(location: Location, credentials: AwsCredentials | None, limits: Limits) -> Source:
    """The source at `location`; `credentials` are for S3. Each driver is loaded only when it is used."""
    if location.kind == "s3":
        from trustfed.reading.sources.s3 import S3Source  # noqa: PLC0415

        assert credentials is not None
        return S3Source(location, credentials, limits)
    if location.kind == "web":
        from trustfed.reading.sources.web import WebSource  # noqa: PLC0415

        return WebSource(location.url, location.ca_file, limits)
    from trustfed.reading.sources.directory import DirectorySource  # noqa: PLC0415

    return DirectorySource(location.folder)
