"""Devices, their certificates, and the end of both."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from keyferry_manager.api import schemas
from keyferry_manager.api.routes.kit import (
    DEFAULT_LIMIT,
    Asked,
    Cursor,
    DeviceQuery,
    Limit,
    PathName,
    PathNumber,
    PathSerial,
    right,
)
from keyferry_manager.store.records import Reason

router = APIRouter()


@router.get(
    "/v1/devices",
    response_model=schemas.Page[schemas.DeviceLine],
    operation_id="list_devices",
    summary="List devices, by name",
    tags=["devices"],
    **right("devices:read"),
)
async def devices(asked: Asked, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Any:
    return await asked.devices(limit, cursor)


@router.post(
    "/v1/devices",
    response_model=schemas.AddedDevice,
    status_code=201,
    operation_id="add_device",
    summary="Add a device, with a one-time token to enrol with",
    tags=["devices"],
    **right("devices:write", 409, 400, 413),
)
async def add_device(asked: Asked, response: Response, device: schemas.NewDevice) -> Any:
    factory = device.factory.model_dump() if device.factory else None
    added = await asked.add_device(
        device.name,
        again=device.again,
        seconds=device.seconds,
        token_sha256=device.token_sha256,
        factory=factory,
    )
    response.headers["Location"] = f"/v1/devices/{device.name}"
    return added


@router.get(
    "/v1/devices/{name}",
    response_model=schemas.DeviceDetails,
    operation_id="get_device",
    summary="Look at a device",
    tags=["devices"],
    **right("devices:read", 404),
)
async def device(asked: Asked, name: PathName) -> Any:
    return await asked.device(name)


@router.delete(
    "/v1/devices/{name}",
    response_model=schemas.Revocation,
    operation_id="remove_device",
    summary="Remove a device: revoke all that it has, and forget its name and its rules",
    tags=["devices"],
    **right("certificates:revoke", 404),
)
async def remove_device(
    asked: Asked,
    name: PathName,
    reason: Annotated[Reason, Query(description="Of RFC 5280.")] = "cessationOfOperation",
) -> Any:
    return await asked.revoke(reason, device=name, remove=True)


@router.post(
    "/v1/devices/{name}/revocation",
    response_model=schemas.Revocation,
    status_code=202,
    operation_id="revoke_device",
    summary="Revoke every certificate of a device, and end what is live of them",
    tags=["devices"],
    **right("certificates:revoke", 404, 400, 413),
)
async def revoke_device(asked: Asked, name: PathName, order: schemas.RevocationOrder) -> Any:
    return await asked.revoke(order.reason, device=name)


@router.get(
    "/v1/certificates",
    response_model=schemas.Page[schemas.CertificateLine],
    operation_id="list_certificates",
    summary="List certificates, newest first",
    tags=["certificates"],
    **right("certificates:read"),
)
async def certificates(
    asked: Asked,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    device: DeviceQuery = None,
) -> Any:
    return await asked.certificates(limit, cursor, device=device)


@router.put(
    "/v1/devices/{name}/endorsement",
    response_model=schemas.Endorsed,
    operation_id="endorse_device",
    summary="Take over what the realm's owner signed for a device's key",
    tags=["devices"],
    **right("devices:write", 404, 400, 413),
)
async def endorse_device(asked: Asked, name: PathName, signed: schemas.NewEndorsement) -> Any:
    return await asked.endorse(name, signed.endorsement)


@router.get(
    "/v1/certificates/{serial}",
    response_model=schemas.CertificateDetails,
    operation_id="get_certificate",
    summary="Look at a certificate",
    tags=["certificates"],
    **right("certificates:read", 404),
)
async def certificate(asked: Asked, serial: PathSerial) -> Any:
    return await asked.certificate(serial)


@router.post(
    "/v1/certificates/{serial}/revocation",
    response_model=schemas.Revocation,
    status_code=202,
    operation_id="revoke_certificate",
    summary="Revoke a certificate, and every other one for the same key",
    tags=["certificates"],
    **right("certificates:revoke", 404, 400, 413),
)
async def revoke_certificate(
    asked: Asked, serial: PathSerial, order: schemas.RevocationOrder
) -> Any:
    return await asked.revoke(order.reason, serial=serial)


@router.get(
    "/v1/revocations/{number}",
    response_model=schemas.Revocation,
    operation_id="get_revocation",
    summary="What became of an order to revoke",
    tags=["certificates"],
    **right("certificates:read", 404),
)
async def revocation(asked: Asked, number: PathNumber) -> Any:
    return await asked.revocation(number)
