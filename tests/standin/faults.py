"""What can go wrong between a client and a controller."""

import enum


class Fault(enum.Enum):
    """Where an exchange breaks. Unless said otherwise the request has taken effect when it does."""

    CLOSE_BEFORE_READING = "closed before the request was read: no effect"
    CLOSE_AFTER_QUEUEING = "closed before the answer"
    CUT_IN_HEADER = "closed in the middle of the answer's header"
    DRIP = "the answer's body comes byte by byte"
    DRIP_HEADER = "the answer's header comes byte by byte"
    RESET = "the connection is reset instead of an answer"
    STARTING = "503 of a Jenkins that starts: no effect"
    BLACKHOLE = "never answered: no effect"
    BLACKHOLE_AFTER_QUEUEING = "never answered"
    LOGIN_REDIRECT = "302 to a login page, by a proxy: no effect"


# These happen before Jenkins gets to see the request.
WITHOUT_EFFECT = {Fault.CLOSE_BEFORE_READING, Fault.STARTING, Fault.BLACKHOLE, Fault.LOGIN_REDIRECT}


class Phase(enum.Enum):
    """The phases of a start, in their order, by what a client meets in them."""

    DOWN = "nothing listens"
    FAILING = "POST 500, GET 503"
    UNSECURED = "POST 403 about a crumb, whoever asks; GET 503"
    NO_USERS = "401 to everybody with credentials, for some milliseconds"
    LOADING = "503 to those who may ask"
    UP = "ready"
