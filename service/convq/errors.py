"""Everything that convq raises on purpose, as one tree.

::

    ConvqError
    ├── JobError                one job can never succeed; answered as a result with status "error"
    │   ├── BadField            a field is missing, malformed or contradicts another
    │   ├── BadImage            the bytes are no image that convq can decode
    │   ├── ImageTooLarge       more bytes or pixels than the model's manifest allows
    │   ├── BadTensor           dtype, shape or length do not fit the model's input
    │   ├── UnknownVersion      a pinned version that is not served
    │   ├── UnknownOutput       an output name that the model does not have
    │   ├── NonFinite           the network produced NaN or infinity
    │   ├── ModelFault          onnxruntime refused the batch          (wire code: model_error)
    │   ├── NoRoom              the server has no room for its answer (wire code: no_room)
    │   └── InternalFault       a defect of the service                (wire code: internal)
    ├── JobFailed               the client's view of a result that is not "ok"
    ├── ResultTimeout           no result came in the time that the caller gave
    │   ├── ResultGone          none will come: the job was answered, and its result has been read or has expired
    │   │   └── Answered        the same, said by the door: a job with that id is not put into the queue again
    │   └── UnknownModel        none would come: nobody serves, has served or expects a model of that name on this server
    ├── QueueFull               the door is shut: too many jobs or bytes wait already
    ├── JobHeld                 the job's entry was deleted, and its worker is silent: nobody knows yet what becomes of it
    ├── RedisUnavailable        no connection, or it broke in the middle of a command
    ├── RedisRefused            the server answered, and the answer is no (version, rights, policy)
    ├── LeaseLost               another worker has taken over the jobs of this one
    ├── ModelBroken             a folder of the model repository cannot be served
    ├── ExportRefused           a network in PyTorch cannot become a version of a model
    ├── NotPlaced               a model was made and could not be put into its repository
    ├── SettingsError           a flag or CONVQ_* variable is unknown or malformed
    │   └── RequestRefused      what somebody asks for a model contradicts itself, or the model that is there
    ├── BadDataset              pictures and classes that a model is to be evaluated on, and cannot be
    └── ServiceFailed           the service gave up (its log says why)

Each class knows its wire or log `code`, whose `fault` it is, whether a `retry` can help, and with which exit code the
command line ends. This module imports nothing of convq: everything may raise.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

Fault = Literal["client", "service", "operator", "environment"]


class ConvqError(Exception):
    """Root of the tree. The message is written for the person who reads it: what was wrong, what was expected."""

    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = "service"
    retry: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class JobError(ConvqError):
    """One job can never succeed. Never holds a path, a traceback or the payload: the message travels to the client.

    A few bytes of the payload may follow as `quote`: for the client, who knows them anyway, and not for `public`, which
    is what logs and traces repeat.
    """

    fault: ClassVar[Fault] = "client"

    def __init__(self, message: str, *, quote: str = "") -> None:
        super().__init__(message + quote)
        self.public = message

    def at_rest(self) -> Self:
        """Itself, to be kept with its job: without traceback and context.

        These hold the frames that it came through, and so the whole job, in a circle that only the collector opens.
        """
        self.__context__ = None
        return self.with_traceback(None)


class BadField(JobError):
    """A field of the entry is missing, malformed or contradicts another."""

    code: ClassVar[str] = "bad_field"


class BadImage(JobError):
    """The bytes of `image` cannot be decoded."""

    code: ClassVar[str] = "bad_image"


class ImageTooLarge(JobError):
    """More bytes or pixels than the manifest allows; refused before anything is decoded."""

    code: ClassVar[str] = "image_too_large"


class BadTensor(JobError):
    """dtype, shape or length of `tensor` do not fit the model's input."""

    code: ClassVar[str] = "bad_tensor"


class UnknownVersion(JobError):
    """The job pins a version of the model that is not served."""

    code: ClassVar[str] = "unknown_version"


class UnknownOutput(JobError):
    """The job asks for an output that the model does not have."""

    code: ClassVar[str] = "unknown_output"


class NonFinite(JobError):
    """The network produced NaN or infinity for this input."""

    code: ClassVar[str] = "non_finite"
    fault: ClassVar[Fault] = "service"


class ModelFault(JobError):
    """onnxruntime refused the batch."""

    code: ClassVar[str] = "model_error"
    fault: ClassVar[Fault] = "service"


class NoRoom(JobError):
    """Redis has no room for the answer of this job, which is a large one: later it may have, for a job with another id."""

    code: ClassVar[str] = "no_room"
    fault: ClassVar[Fault] = "environment"
    retry: ClassVar[bool] = True


class InternalFault(JobError):
    """A defect of the service: the log has the traceback, the client a fixed phrase."""

    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = "service"


JOB_ERRORS: tuple[type[JobError], ...] = (
    BadField,
    BadImage,
    ImageTooLarge,
    BadTensor,
    UnknownVersion,
    UnknownOutput,
    NonFinite,
    ModelFault,
    NoRoom,
    InternalFault,
)
"""One class per error code of the wire protocol, in the order of its table."""


class JobFailed(ConvqError):
    """A result arrived and it is not "ok". `result` is the whole `convq.Result`."""

    code: ClassVar[str] = "job_failed"
    fault: ClassVar[Fault] = "client"

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class ResultTimeout(ConvqError):
    """No result within the caller's time. The job is not withdrawn: the result may still come."""

    code: ClassVar[str] = "result_timeout"
    fault: ClassVar[Fault] = "environment"
    retry: ClassVar[bool] = True


class ResultGone(ResultTimeout):
    """The job was answered within the last 10 minutes, and its result has been read or has expired: none will come.

    Submitting it again with the same id changes nothing, for it is the same job; another id makes another job.
    """

    code: ClassVar[str] = "result_gone"
    fault: ClassVar[Fault] = "client"
    retry: ClassVar[bool] = False


class Answered(ResultGone):
    """The door was given an id that was answered within the last 10 minutes, and whose answer was read or went to an inbox.

    Nothing was put into the queue. The message says to which inbox it went; give another id to have an image computed again.
    """

    code: ClassVar[str] = "answered"


class JobHeld(ConvqError):
    """Somebody deleted the job's entry while a worker held it, and that worker is silent: it may answer, or be dead.

    Submit again with the same id after `retry_after_s` seconds: then it is answered, or a new job.
    """

    code: ClassVar[str] = "job_held"
    fault: ClassVar[Fault] = "environment"
    retry: ClassVar[bool] = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownModel(ResultTimeout):
    """No service on this server serves the model, has served it, or expects it: nobody would ever answer.

    Said by the door, at once and without the job being put into the queue. `nearest` is the known name that is most like
    it, None where none is.
    """

    code: ClassVar[str] = "unknown_model"
    fault: ClassVar[Fault] = "client"
    retry: ClassVar[bool] = False

    def __init__(self, message: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.nearest = nearest


class QueueFull(ConvqError):
    """The shard holds as many jobs or bytes as it may.

    `accepted` are the entry ids of the jobs of this call that were taken before it was full, in order: the first ones.
    `retry_after_s` is an estimate in seconds of when there is room again, or None where nothing is known. `most_jobs` is
    how many jobs one call may bring at all, where it brought more.
    """

    code: ClassVar[str] = "queue_full"
    fault: ClassVar[Fault] = "environment"
    retry: ClassVar[bool] = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.accepted: list[str] = []
        self.retry_after_s = retry_after_s
        self.most_jobs: int | None = None


class RedisUnavailable(ConvqError):
    """No connection to Redis, or it broke in the middle of a command whose outcome is then unknown."""

    code: ClassVar[str] = "redis_unavailable"
    fault: ClassVar[Fault] = "environment"
    retry: ClassVar[bool] = True
    exit_code: ClassVar[int] = 4


class RedisRefused(ConvqError):
    """The server answered with an error that will not go away by itself: too old, no rights, wrong type."""

    code: ClassVar[str] = "redis_refused"
    fault: ClassVar[Fault] = "operator"
    exit_code: ClassVar[int] = 4


class StrangeKey(RedisRefused):
    """A key that is convq's by its name holds something of another type: somebody else has written there."""

    code: ClassVar[str] = "strange_key"


class LeaseLost(ConvqError):
    """This worker was silent too long: others answer its jobs, and nothing that it holds may be published."""

    code: ClassVar[str] = "lease_lost"
    fault: ClassVar[Fault] = "environment"
    retry: ClassVar[bool] = True


class ModelBroken(ConvqError):
    """A folder of the model repository cannot be served. The message names the file and the reason."""

    code: ClassVar[str] = "model_broken"
    fault: ClassVar[Fault] = "operator"
    exit_code: ClassVar[int] = 3


class NetworkFaulty(ModelBroken):
    """The network fails, or answers wrongly, on inputs that it must take: here as on every other machine."""


class ExportRefused(ConvqError):
    """A network in PyTorch, or its weights, cannot become a version. The message is one line: what is wrong, what was expected."""

    code: ClassVar[str] = "export_refused"
    fault: ClassVar[Fault] = "operator"
    exit_code: ClassVar[int] = 3


class SettingsError(ConvqError):
    """A flag or CONVQ_* variable is unknown or malformed. The message names it and what was expected."""

    code: ClassVar[str] = "bad_settings"
    fault: ClassVar[Fault] = "operator"
    exit_code: ClassVar[int] = 2


class RequestRefused(SettingsError):
    """A model or version cannot be made as it is asked for: that contradicts itself, or what is there; nothing was changed.

    `field` is the one to blame, as the flag is called without its dashes: `version`, `color`.
    """

    code: ClassVar[str] = "request_refused"
    fault: ClassVar[Fault] = "client"

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotPlaced(ConvqError):
    """A model that is fit to be served could not be put into its repository, which is as it was.

    `is_taken`: somebody else has put one there meanwhile; else the repository cannot be written.
    """

    code: ClassVar[str] = "not_placed"
    fault: ClassVar[Fault] = "operator"

    def __init__(self, message: str, *, is_taken: bool = False) -> None:
        super().__init__(message)
        self.is_taken = is_taken


class BadDataset(ConvqError):
    """The pictures that a model is to be evaluated on cannot be used as they are. The message names file, line or class."""

    code: ClassVar[str] = "bad_dataset"
    fault: ClassVar[Fault] = "operator"
    exit_code: ClassVar[int] = 2


class ServiceFailed(ConvqError):
    """The service gave up: no worker survives its start, or one of its own threads ended by a defect."""

    code: ClassVar[str] = "service_failed"
    fault: ClassVar[Fault] = "operator"
