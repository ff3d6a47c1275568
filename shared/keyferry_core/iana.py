"""Numbers from the IANA registries, each in one place."""

# COSE algorithms (RFC 9053)
ES256 = -7
SHA_256_64 = -15
AES_CCM_16_64_128 = 10
AES_CCM_16_128_128 = 30

# COSE message tags and header parameters (RFC 9052, RFC 9360)
COSE_ENCRYPT0_TAG = 16
COSE_SIGN1_TAG = 18
HEADER_ALG = 1
HEADER_CRIT = 2
HEADER_IV = 5
KID = 4
X5CHAIN = 33
X5T = 34

# CWT claims (RFC 8392) and confirmation methods (RFC 8747), COSE_Key parameters (RFC 9052, 9053)
CWT_SUB = 2
CWT_CNF = 8
CNF_COSE_KEY = 1
KEY_KTY = 1
KEY_KID = 2
KEY_CRV = -1
KEY_X = -2
KEY_Y = -3
KTY_EC2 = 2
CRV_P256 = 1

# EDHOC methods (RFC 9528, table 4). Methods 1 and 2 mix the two ways and are not offered.
METHOD_SIGN_SIGN = 0
METHOD_STATIC_STATIC = 3

# EDHOC error codes (RFC 9528, section 6)
EDHOC_UNSPECIFIED_ERROR = 1
EDHOC_WRONG_SUITE = 2
EDHOC_UNKNOWN_CREDENTIAL = 3

# EDHOC external authorization data: padding, and Keyferry's own label (private use range)
EAD_PADDING = 0
EAD_KEYFERRY_BINDING = 32768

# EDHOC exporter labels: OSCORE's (RFC 9528, appendix A.1), and Keyferry's own (private use range)
EXPORTER_OSCORE_SECRET = 0
EXPORTER_OSCORE_SALT = 1
EXPORTER_RECORD_SECRET = 32768
EXPORTER_RECORD_SALT = 32769
EXPORTER_FINGERPRINT = 32770
