"""Every operation of the origin double, as boto3 asks for it. Usage: boto3_tour.py ENDPOINT BUCKET ACCESS SECRET.

Prints `ok` at the end; any difference from S3 is an AssertionError.
"""

import hashlib
import io
import sys
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, bucket, access, secret = sys.argv[1:5]


def client(access=access, secret=secret, **config):
    settings = Config(retries={"max_attempts": 1, "mode": "standard"}, s3={"addressing_style": "path"}, **config)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=settings,
    )


s3 = client()


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        return error.response
    raise AssertionError(f"{call} was not refused with {code}")


def body(key, **arguments):
    return s3.get_object(Bucket=bucket, Key=key, **arguments)["Body"].read()


def put_get_head():
    data = b"hello larder"
    put = s3.put_object(Bucket=bucket, Key="a b/é+%.txt", Body=data, ContentType="text/plain", Metadata={"colour": "blue"})
    etag = '"' + hashlib.md5(data).hexdigest() + '"'
    assert put["ETag"] == etag, put
    head = s3.head_object(Bucket=bucket, Key="a b/é+%.txt")
    assert head["ETag"] == etag and head["ContentLength"] == 12 and head["ContentType"] == "text/plain", head
    assert head["Metadata"] == {"colour": "blue"}, head
    got = s3.get_object(Bucket=bucket, Key="a b/é+%.txt", ChecksumMode="ENABLED")
    assert got["Body"].read() == data and got["ChecksumCRC32"], got
    for algorithm in ["CRC32", "SHA1", "SHA256"]:
        s3.put_object(Bucket=bucket, Key="sum", Body=io.BytesIO(data), ChecksumAlgorithm=algorithm)
        assert body("sum") == data
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    assert body("empty") == b""
    for key in ["a//b", "../x", "dir/", "k" * 1024, "plain", "plain/below", "tab\tkey"]:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert body(key) == key.encode(), key
    refused("KeyTooLongError", s3.put_object, Bucket=bucket, Key="k" * 1025, Body=b"")
    old = client(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    old.put_object(Bucket=bucket, Key="unchecked", Body=data)
    assert body("unchecked") == data
    refused("BadDigest", s3.put_object, Bucket=bucket, Key="bad", Body=data, ChecksumCRC32="AAAAAA==")
    refused("BadDigest", s3.put_object, Bucket=bucket, Key="bad", Body=data, ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    refused("NoSuchKey", s3.get_object, Bucket=bucket, Key="bad")
    refused("404", s3.head_object, Bucket=bucket, Key="bad")


def ranges_and_conditions():
    s3.put_object(Bucket=bucket, Key="r", Body=b"0123456789")
    etag = s3.head_object(Bucket=bucket, Key="r")["ETag"]
    part = s3.get_object(Bucket=bucket, Key="r", Range="bytes=2-4", IfMatch=etag)
    assert part["Body"].read() == b"234" and part["ContentRange"] == "bytes 2-4/10", part
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert body("r", Range="bytes=-3") == b"789"
    assert body("r", Range="bytes=8-100") == b"89"
    refused("InvalidRange", s3.get_object, Bucket=bucket, Key="r", Range="bytes=10-")
    refused("PreconditionFailed", s3.get_object, Bucket=bucket, Key="r", IfMatch='"other"')
    refused("304", s3.get_object, Bucket=bucket, Key="r", IfNoneMatch=etag)
    modified = s3.head_object(Bucket=bucket, Key="r")["LastModified"]
    refused("304", s3.get_object, Bucket=bucket, Key="r", IfModifiedSince=modified)
    assert body("r", IfUnmodifiedSince=modified) == b"0123456789"
    refused("PreconditionFailed", s3.put_object, Bucket=bucket, Key="r", Body=b"x", IfNoneMatch="*")
    refused("PreconditionFailed", s3.put_object, Bucket=bucket, Key="r", Body=b"x", IfMatch='"other"')
    refused("NoSuchKey", s3.put_object, Bucket=bucket, Key="none", Body=b"x", IfMatch=etag)
    s3.put_object(Bucket=bucket, Key="r", Body=b"new", IfMatch=etag)
    s3.put_object(Bucket=bucket, Key="first", Body=b"1", IfNoneMatch="*")
    assert body("r") == b"new" and body("first") == b"1"


def listings():
    names = [f"list/{d}/{f:03}" for d in "abc" for f in range(40)] + ["list/top", "list/sp ace+%", "list/\x01odd"]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="list/", PaginationConfig={"PageSize": 7})
    found = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    assert found == sorted(names, key=str.encode), found
    pages = s3.get_paginator("list_objects").paginate(
        Bucket=bucket, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 2}
    )
    pages = list(pages)
    prefixes = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    assert prefixes == ["list/a/", "list/b/", "list/c/"] and keys == ["list/\x01odd", "list/sp ace+%", "list/top"], (prefixes, keys)
    after = s3.list_objects_v2(Bucket=bucket, Prefix="list/", StartAfter="list/c/038")
    assert [entry["Key"] for entry in after["Contents"]] == ["list/c/039", "list/sp ace+%", "list/top"], after
    none = s3.list_objects_v2(Bucket=bucket, Prefix="list/", MaxKeys=0)
    assert none["KeyCount"] == 0 and not none["IsTruncated"]
    refused("NoSuchBucket", s3.list_objects_v2, Bucket="no-such-bucket")


def deletes():
    s3.delete_object(Bucket=bucket, Key="first")
    s3.delete_object(Bucket=bucket, Key="first")
    refused("NoSuchKey", s3.get_object, Bucket=bucket, Key="first")
    batch = {"Objects": [{"Key": key} for key in ["list/top", "list/sp ace+%", "a//b", "never <&>"]]}
    deleted = s3.delete_objects(Bucket=bucket, Delete=batch)
    assert len(deleted["Deleted"]) == 4 and "Errors" not in deleted, deleted
    refused("404", s3.head_object, Bucket=bucket, Key="a//b")


def multipart():
    part = 5 << 20
    data = bytes(range(256)) * (part // 256) + b"tail" * 1000
    config = TransferConfig(multipart_threshold=part, multipart_chunksize=part)
    s3.upload_fileobj(io.BytesIO(data), bucket, "multi", Config=config, ExtraArgs={"Metadata": {"m": "1"}})
    head = s3.head_object(Bucket=bucket, Key="multi")
    digests = b"".join(hashlib.md5(piece).digest() for piece in (data[:part], data[part:]))
    assert head["ETag"] == '"' + hashlib.md5(digests).hexdigest() + '-2"' and head["Metadata"] == {"m": "1"}, head
    back = io.BytesIO()
    s3.download_fileobj(bucket, "multi", back, Config=config)
    assert back.getvalue() == data
    assert body("multi", Range=f"bytes={part - 2}-{part + 1}") == data[part - 2 : part + 2]

    upload = s3.create_multipart_upload(Bucket=bucket, Key="hand")["UploadId"]
    one = s3.upload_part(Bucket=bucket, Key="hand", UploadId=upload, PartNumber=1, Body=data[:part])
    two = s3.upload_part_copy(
        Bucket=bucket, Key="hand", UploadId=upload, PartNumber=2, CopySource={"Bucket": bucket, "Key": "multi"},
        CopySourceRange="bytes=0-9",
    )
    assert [p["Size"] for p in s3.list_parts(Bucket=bucket, Key="hand", UploadId=upload)["Parts"]] == [part, 10]
    assert [u["Key"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["hand"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": one["ETag"]}, {"PartNumber": 2, "ETag": two["CopyPartResult"]["ETag"]}]}
    wrong = {"Parts": [{"PartNumber": 1, "ETag": '"nope"'}]}
    complete = dict(Bucket=bucket, Key="hand", UploadId=upload)
    refused("InvalidPart", s3.complete_multipart_upload, MultipartUpload=wrong, **complete)
    s3.put_object(Bucket=bucket, Key="hand", Body=b"in the way")
    refused("PreconditionFailed", s3.complete_multipart_upload, MultipartUpload=parts, IfNoneMatch="*", **complete)
    etag = s3.head_object(Bucket=bucket, Key="hand")["ETag"]
    s3.complete_multipart_upload(MultipartUpload=parts, IfMatch=etag, **complete)
    assert body("hand") == data[:part] + data[:10]

    upload = s3.create_multipart_upload(Bucket=bucket, Key="gone")["UploadId"]
    s3.abort_multipart_upload(Bucket=bucket, Key="gone", UploadId=upload)
    refused("NoSuchUpload", s3.upload_part, Bucket=bucket, Key="gone", UploadId=upload, PartNumber=1, Body=b"x")


def copies():
    s3.copy_object(Bucket=bucket, Key="copy é", CopySource={"Bucket": bucket, "Key": "a b/é+%.txt"})
    head = s3.head_object(Bucket=bucket, Key="copy é")
    assert body("copy é") == b"hello larder" and head["Metadata"] == {"colour": "blue"}, head
    s3.copy_object(
        Bucket=bucket, Key="copy é", CopySource={"Bucket": bucket, "Key": "copy é"}, MetadataDirective="REPLACE",
        Metadata={"new": "yes"},
    )
    assert s3.head_object(Bucket=bucket, Key="copy é")["Metadata"] == {"new": "yes"}
    source = {"Bucket": bucket, "Key": "a b/é+%.txt"}
    refused("PreconditionFailed", s3.copy_object, Bucket=bucket, Key="c", CopySource=source, CopySourceIfMatch='"no"')
    refused("NoSuchKey", s3.copy_object, Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "never"})


def buckets():
    s3.create_bucket(Bucket="another")
    assert {"another", bucket} <= {b["Name"] for b in s3.list_buckets()["Buckets"]}
    s3.head_bucket(Bucket="another")
    refused("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket="another")
    s3.put_object(Bucket="another", Key="k", Body=b"")
    refused("BucketNotEmpty", s3.delete_bucket, Bucket="another")
    s3.delete_object(Bucket="another", Key="k")
    s3.delete_bucket(Bucket="another")
    refused("404", s3.head_bucket, Bucket="another")
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    refused("NotImplemented", s3.get_bucket_acl, Bucket=bucket)


def presigned():
    signer = client(signature_version="s3v4")
    parameters = {"Bucket": bucket, "Key": "a b/é+%.txt"}
    url = signer.generate_presigned_url("get_object", Params=parameters)
    assert urllib.request.urlopen(url).read() == b"hello larder"
    upload = signer.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "up"})
    urllib.request.urlopen(urllib.request.Request(upload, data=b"presigned", method="PUT")).read()
    assert body("up") == b"presigned"
    for wrong in [url.replace("larder", "other").replace("X-Amz-Signature=", "X-Amz-Signature=0"), url.split("?")[0]]:
        try:
            urllib.request.urlopen(wrong)
        except urllib.error.HTTPError as error:
            assert error.code == 403, error
        else:
            raise AssertionError("a wrong URL was served")


def strangers():
    answer = refused("SignatureDoesNotMatch", client(secret="wrong").get_object, Bucket=bucket, Key="r")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403
    refused("SignatureDoesNotMatch", client(secret="wrong").put_object, Bucket=bucket, Key="r", Body=b"x" * 100_000)
    refused("InvalidAccessKeyId", client(access="NOBODY").list_objects_v2, Bucket=bucket)
    assert body("r") == b"new"


for step in [put_get_head, ranges_and_conditions, listings, deletes, multipart, copies, buckets, presigned, strangers]:
    step()
print("ok")
