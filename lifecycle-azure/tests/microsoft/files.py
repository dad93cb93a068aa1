"""Uses Microsoft's client for Azure Files with the simulator.

The arguments are the URL and the account. The environment variable AZURE_STORAGE_KEY contains the
account's key. Prints "all done" if all steps succeed.
"""

import os
import sys
from datetime import datetime, timedelta, timezone

from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.fileshare import (
    ContentSettings,
    ShareServiceClient,
    generate_account_sas,
    generate_file_sas,
    generate_share_sas,
)

url, account = sys.argv[1:]
key = os.environ["AZURE_STORAGE_KEY"]
soon = datetime.now(timezone.utc) + timedelta(hours=1)


def client(credential):
    return ShareServiceClient(url, credential=credential, retry_total=0)


def fails(kind, code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as error:
        assert error.error_code == code, (error.error_code, code)
        return
    raise AssertionError(f"{code} was not raised")


def shares(service):
    share = service.get_share_client("made")
    share.create_share(metadata={"owner": "me"})
    fails(ResourceExistsError, "ShareAlreadyExists", share.create_share)
    names = [one.name for one in service.list_shares(name_starts_with="ma", include_metadata=True)]
    assert names == ["made"], names
    assert share.get_share_properties().metadata == {"owner": "me"}
    share.set_share_metadata({"owner": "you"})
    assert share.get_share_properties().metadata == {"owner": "you"}
    share.delete_share()
    fails(ResourceNotFoundError, "ShareNotFound", share.get_share_properties)


def directories(share):
    top = share.get_directory_client("dir \u00fc & 100%")
    top.create_directory(metadata={"a": "b"})
    fails(ResourceExistsError, "ResourceAlreadyExists", top.create_directory)
    deep = share.get_directory_client("absent/dir")
    fails(ResourceNotFoundError, "ParentNotFound", deep.create_directory)
    sub = top.create_subdirectory("sub")
    assert top.get_directory_properties().metadata == {"a": "b"}
    top.set_directory_metadata({"c": "d"})
    assert top.get_directory_properties().metadata == {"c": "d"}
    fails(ResourceExistsError, "DirectoryNotEmpty", top.delete_directory)
    sub.delete_directory()
    top.delete_directory()
    assert not top.exists()


def files(share):
    directory = share.create_directory("files")
    odd = "n\u00fc & a b+c%20 ++.txt"
    for name in [odd] + [f"f{n:02}" for n in range(12)]:
        directory.upload_file(name, name.encode())
    big = bytes(range(256)) * 4096 * 9 + b"end"
    file = directory.get_file_client("big.bin")
    settings = ContentSettings(content_type="application/x-big")
    file.upload_file(big, metadata={"kind": "big"}, content_settings=settings, max_concurrency=3)
    assert file.download_file(max_concurrency=3).readall() == big
    assert file.download_file(offset=1000, length=5000).readall() == big[1000:6000]
    properties = file.get_file_properties()
    assert properties.size == len(big) and properties.metadata == {"kind": "big"}
    assert properties.content_settings.content_type == "application/x-big"
    assert directory.get_file_client(odd).download_file().readall() == odd.encode()
    file.set_file_metadata({"kind": "huge"})
    assert file.get_file_properties().metadata == {"kind": "huge"}

    pages = directory.list_directories_and_files(results_per_page=5, include=["timestamps", "etag"])
    pages = [[one for one in page] for page in pages.by_page()]
    assert [len(page) for page in pages] == [5, 5, 4], [len(page) for page in pages]
    listed = {one["name"]: one for page in pages for one in page}
    assert listed["big.bin"]["size"] == len(big) and odd in listed
    assert listed["big.bin"]["etag"] and listed["big.bin"]["last_modified"]
    named = directory.list_directories_and_files(name_starts_with="f0")
    assert len([one for one in named]) == 10

    empty = directory.get_file_client("empty")
    empty.upload_file(b"")
    assert empty.download_file().readall() == b""

    ranges = directory.get_file_client("ranges")
    ranges.create_file(10_000)
    ranges.upload_range(b"x" * 512, offset=0, length=512)
    ranges.upload_range(b"y" * 512, offset=2048, length=512)
    found = [(one["start"], one["end"]) for one in ranges.get_ranges()]
    assert found == [(0, 511), (2048, 2559)], found
    ranges.clear_range(0, 512)
    assert [one["start"] for one in ranges.get_ranges()] == [2048]
    assert ranges.download_file(offset=2040, length=16).readall() == b"\0" * 8 + b"y" * 8
    ranges.resize_file(100)
    assert ranges.get_file_properties().size == 100
    fails(HttpResponseError, "InvalidRange", ranges.upload_range, b"z" * 8, offset=96, length=8)

    for one in list(directory.list_directories_and_files()):
        directory.delete_file(one["name"])
    fails(ResourceNotFoundError, "ResourceNotFound", file.get_file_properties)
    directory.delete_directory()


def signatures(share):
    share.get_directory_client("signed").create_directory()
    share.get_file_client("signed/file").upload_file(b"signed")
    tokens = [
        (generate_account_sas(account, key, "co", "rwdlc", soon), True),
        (generate_share_sas(account, "code", key, "rcwdl", soon), True),
        (generate_share_sas(account, "code", key, "r", soon), False),
        (generate_file_sas(account, "code", ["signed", "file"], key, "r", soon), False),
    ]
    for token, may_write in tokens:
        file = client(token).get_share_client("code").get_file_client("signed/file")
        assert file.download_file().readall() == b"signed"
        if may_write:
            file.upload_file(b"signed")
        else:
            code = "AuthorizationPermissionMismatch"
            fails(HttpResponseError, code, file.upload_file, b"x")
    over = generate_share_sas(account, "code", key, "r", datetime(2020, 1, 1, tzinfo=timezone.utc))
    file = client(over).get_share_client("code").get_file_client("signed/file")
    fails(ClientAuthenticationError, "AuthenticationFailed", file.download_file)
    wrong = {"account_name": account, "account_key": "d3Jvbmc="}
    file = client(wrong).get_share_client("code").get_file_client("signed/file")
    fails(ClientAuthenticationError, "AuthenticationFailed", file.download_file)
    share.get_file_client("signed/file").delete_file()
    share.get_directory_client("signed").delete_directory()


service = client({"account_name": account, "account_key": key})
code = service.get_share_client("code")
for step, argument in [(shares, service), (directories, code), (files, code), (signatures, code)]:
    step(argument)
    print(step.__name__)
code.create_directory("left")
code.get_file_client("left/Dockerfile").upload_file(b"FROM scratch\n")
print("all done")
