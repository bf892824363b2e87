"""Why calls fail: the reasons (`errors.v1`), the one exception and the one table."""

from trunkline.errors.gateway_error import DOMAIN, GatewayError, from_status, to_status
from trunkline.errors.reasons import FACES, Face, Reason, face_of, reason_name

__all__ = ["DOMAIN", "FACES", "Face", "GatewayError", "Reason", "face_of", "from_status", "reason_name", "to_status"]
