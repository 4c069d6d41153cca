"""The meaning of a server's error: one ordered table, read from top to bottom; the first rule that fits
decides.

The order is the meaning: words about length or content come before a 403's presumed key, and a named window
of a rate limit ("tokens per minute", "try again in 8s") before words about money, which many servers add to
every refusal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from actors.endpoint.error_body import ErrorBody

FaultKind = Literal[
    "rate_limited",  # too fast: slow everyone down
    "overloaded",  # a server error that usually passes
    "unreachable",  # no connection, or it broke
    "timeout",  # no complete answer in time
    "garbled",  # an answer that is none: HTML, broken JSON, no choices
    "filtered",  # the provider declined the content: an answer
    "too_long",  # the prompt does not fit the model
    "too_many_images",  # fewer images would do
    "rejected",  # this request can never work
    "no_vision",  # the model takes no images
    "no_model",
    "no_access",  # not the key: a proxy, a firewall or the state of the account
    "bad_key",
    "no_quota",
]

_CLIENT = range(400, 500)
_ANY = range(400, 600)
_LIMITED = (429, 498, 529)


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.I)


_LIMIT = r"(exceed\w*|limit\w*|maximum|max\b|at most|up to|only|more than|allowed|over)"
_IMAGES = r"\bimages?\b(\(s\))?"
IMAGE_COUNT = _words(
    r"too many (\w+ )?image",
    rf"{_IMAGES}[^;]{{0,40}}{_LIMIT}[^;]{{0,40}}\d",
    rf"{_LIMIT}[^;]{{0,40}}\d[^;]{{0,20}}{_IMAGES}",
    rf"{_LIMIT}[^;]{{0,30}}{_IMAGES}[^;]{{0,40}}\d",
    rf"\d {_IMAGES}[^;]{{0,40}}{_LIMIT}",
    r"only( supports?)? (one|a single) image|multiple images? (is|are) not supported",
    r"limit-mm-per-prompt|found \d+ (image )?items in the same prompt",
    r"图片(数量|张数)[^。]{0,12}(超|限|最多)|最多[^。]{0,6}\d+ ?张",
)
"""Images, a number, and a word of limits, near each other."""
IMAGE_LIMIT = re.compile(
    r"(?:at most|max\w*|limit\w*|up to|allowed|supports?|only|more than|最多|>)[^\d.;]{0,40}?"
    r"(\d+|\bone\b|\ba single\b)",
    re.I,
)
_SIDES = r"\d\s*[x×]\s*\d|\b(width|height|size|long|large|small|ratio|length)\b"
_SIZE = _words(r"\d\s*(bytes|[kmg]i?b\b|pixels|px\b|megapixels?)", r"dimension|resolution")
_MEASURE = _words(_SIZE.pattern, r"aspect ratio")
_NO_VISION = _words(
    r"(does(n't| not)|cannot|can't|not able to) (currently )?(support|accept|take|process|handle|read)s? "
    r"(any )?"
    r"(the )?(image|vision|visual|multi-?modal|picture)(?!.{0,30}(format|type|generation|edit|size|of "
    r"(this|that)))",
    r"\b(image|vision|multi-?modal|image_url)s?( inputs?| content| messages?| understanding)? (is|are) "
    r"not supported",
    r"\b(image|vision|multi-?modal)s? (inputs?|content|data|processing|support) (is|are)( currently)? "
    r"(not|un)\w*",
    r"not (compiled|built|started) (for|with) (image|vision|multi-?modal)",
    r"support(s)? (image|vision|multi-?modal) inputs?\b(?<=no endpoints found that support image input)",
    r"unknown variant `?image_url",
    r"image_url[`'\"]? is only supported by",
    r"not a (multi-?modal|vision|vlm)",
    r"mmproj",
    r"no endpoints found that support[^.]{0,30}(image|vision)",
    r"vision (features?|capabilit\w+) (is|are) not",
    r"text[- ]only (model|prompt|input|mode)",
    r"only supports? text|only text[^.]{0,20}supported",
    r"content[^.]{0,20}must be a string",
    r"(unsupported|invalid) content (part )?type[^.]{0,20}image_url",
    r"image_url[^.]{0,30}(not supported|unsupported|is not allowed)",
    r"TextContentPart[^.]{0,60}should be 'text'",
    r"at most 0 image",
    r"\b(image|vision)[^.;]{0,20} (is|are) not enabled",
    r"missing data required for image",
    r"不支持(图片|图像|视觉|多模态)",
)
_BAD_IMAGE = _words(
    r"(unsupported|invalid|corrupt\w*|malformed|bad|undecodable|damaged|empty|broken)[^.;]{0,25}\bimage",
    r"\bimage[^.;]{0,60}(invalid|corrupt|unsupported|not supported|too (small|large|big)|could ?n[o']t|"
    r"cannot|failed|"
    r"larger than|smaller than|exceed|at least|must be|ratio|unreadable)",
    r"(failed|unable|could ?n[o']t|cannot) (to )?(load|decode|process|parse|read|open|identify|"
    r"download)[^.;]{0,30}image",
    r"cannot identify image",
    r"image (dimension|length|width|height|size)",
    r"height:\d+ (or|and) width:\d+",
    r"aspect ratio",
)
_MONEY_CODE = (
    r"insufficient_?(\w+_)?(quota|balance|credit|fund)|credit_balance|billing_(error|hard|not)|"
    r"spend_limit|arrear|overdue|"
    r"budget_exceeded|payment_required|organization_usage_limit|quota_not_enough|out_of_credits"
)
_EMPTY = _words(
    r"insufficient[ _](\w+[ _]){0,4}(quota|balance|funds?|credits?)",
    r"(余额|额度|余量)已?(不足|用完|用尽|耗尽)|欠费",
)
"""An account without money, whatever the status."""
_MONEY = _words(
    _EMPTY.pattern,
    r"exceeded your current quota",
    r"\bbilling\b",
    r"\bno (prepaid |remaining )?credits?\b(?! (was|were|have been) )",
    r"credit balance",
    r"(used|run|ran) (up )?(all|out of)[^.]{0,20}credits?",
    r"credits? (have |has |are |is )?(expired|exhausted|depleted|been used)",
    r"spend(ing)? (limit|cap)|\b(monthly|yearly) (quota|allowance)|\d[^.]{0,20}(/|per) ?month\b",
    r"\bbudget\b[^.]{0,20}exceed|exceed\w*[^.]{0,12}budget",
    r"balance is (insufficient|not enough|too low)|(quota|credits?|balance) (is |are )?not enough",
    r"(purchase|buy|add) (more )?credits?",
    r"payment (is )?required",
    r"recharge|top[ -]?up",
    r"good standing|key limit exceeded",
    r"specified (\w+ )?api usage limits?|requires more credits",
    r"past[- ]due|overdue|in arrears|unpaid",
    r"requires? (an? |your )[^.]{0,25}(subscription|paid|plan)\b|no active subscription",
    r"enough (balance|credits?|funds)",
    r"usage limit (is |was |has been )?(reached|exceeded)|balance is negative|negative balance|"
    r"subscription (has )?(expired|ended)",
    r"plan does(n't| not) (include|allow|support|cover)|upgrade (your|to a (paid|higher)) (plan|tier)",
    r"reached (the|its|your)( \w+){0,2} (usage|inference) limit",
    r"exceeded your (monthly|total)[^.]{0,30}(credits?|allowance|quota)",
    r"free (tier|trial|quota|allocation)[^.]{0,30}(exhausted|ended|expired|used up)",
    r"(used up|exhausted|reached)[^.]{0,20}free (tier|trial|quota|allocation)",
    r"\blimit: 0\b",
)
_QUOTA = _words(
    _MONEY.pattern,
    r"quota[^.]{0,20}(exceed|exhaust|reached|used up|replenish)",
    r"(exceed\w*|out of|no|reached|over)\b[^.]{0,25}\bquota",
)
"""Without a status of rate limits a quota is one of money or volume."""
_WINDOW = _words(
    r"\bper[ _-](second|min|minute|hour|day)",
    r"\b[TRI]P[MDHS]\b",
    r"\b(tpm|rpm)\b",
    r"(try again|retry|available again|wait)\b[^.;]{0,30}\d+(\.\d+)? ?(m?s|sec\w*|m|min\w*|h|hours?)\b",
    r"rate[ _-]limit",
    r"concurren",
    r"too many requests",
    r"free-models-per",
)
_PER_DAY = _words(r"\bper[ _-]day\b", r"\bdaily (limit|quota)")
_TIME_NAMED = _words(r"\b(again|retry|wait|reset)\w*\b[^.;]{0,30}\d", r"free-models-per")
_ACCOUNT_HINDERED = _words(
    r"virtual network|firewall|allow-?list|private (link|endpoint)|(corporate|network) policy",
    r"\b(resource|account|subscription|organi[sz]ation|project|consumer|workspace|tenant|team|api[_ "
    r"]key:)\b[^.]{0,60}"
    r"\b(blocked|suspended|locked|disabled|deactivated|banned|terminated|restricted)",
    r"location is not supported|^error code: 1\d{3}$",
    r"\bip( address)?\b[^.]{0,40}(not (allowed|authorized|in)|blocked|denied)",
    r"anthropic-workspace-id",
    r"accept the (terms|license|agreement)",
    r"network authentication required",
)
_NO_MODEL = _words(
    r"\b(model|deployment|engine)\b[^.]{0,120}?(does(n't| not) exist|do not exist|not found|(is "
    r"(currently |temporarily )?)?not (available|loaded|deployed|served|"
    r"valid|a valid|hosted|supported(?! with))|(has )?reached (the )?end of (its )?life|has been "
    r"(deprecated|retired|shut|decommissioned|removed|discontinued)|"
    r"(is )?no longer (available|supported)|was (deprecated|retired|shut|decommissioned|removed)|is "
    r"unknown|not exist)",
    r"(unknown|invalid|no such|unrecogni[sz]ed|unsupported|nonexistent) model(?! (param|arg|input|output))",
    r"(no|not have|don't have|doesn't have|without|lacks?) (access|permissions?)\b[^.]{0,30}\bmodel",
    r"not (allowed|permitted|authori[sz]ed|entitled|enabled) (to|for)[^.]{0,20}(\bmodel|invokemodel)",
    r"\bmodel\b[^.]{0,80}(is )?blocked (at|by|for) (the|this|your) (project|organi[sz]ation)",
    r"\bmodel is only (supported|available) (in|through|via|on)\b",
    r"(failed|unable|could not|cannot|error) (to )?load(ing)?( the)? model",
    r"must be verified to use the model",
    r"pinned to[^.]{0,200}requested|does not work with the specified model",
    r"not a valid model",
    r"model identifier is invalid",
    r"(no|unknown) (available )?(provider|channel) for model",
    r"no models? (is |are )?loaded|load a model|on-demand throughput",
    r"模型[^。，,]{0,20}不存在|无可用(渠道|模型)|不存在的模型",
)
_ADDRESS = _words(
    r"could not route|no route|unexpected endpoint",
    r"\b(path|route|url|endpoint)\b[^.]{0,40}not found",
    r"(unknown|invalid|unrecogni[sz]ed) (request )?(url|path|endpoint)",
)
_CONTEXT = _words(
    r"context[ _-]?(length|window|size|limit)",
    # Not how long it took.
    r"\b(prompt|input|conversation|messages?|request|string)\b"
    r"((?!\b(took|tak\w+|wait\w*|queued?|running)\b)[^.;]){0,40}(?<!for )too long",
    r"maximum (model|context|input|prompt|sequence|request|allowed input) len",
    r"contextwindowexceeded",
    r"longer than the maximum",
    r"too large to process",
    r"prompt exceeds max|range of input length",
    r"reduce the length of",
    r"reduce your (prompt|input)",
    r"maximum allowed input length",
    r"(input|prompt|sequence|query|request) (token )?(length|count)\b[^;]{0,80}(exceed|too |larger|greater|"
    r"longer)",
    r"n_keep|n_ctx",
    r"(prompt|input|sequence) (token count|tokens|size|length)[^.]{0,60}exceed|array too long|input "
    r"length[^.]{0,60}max_?(length|imum)",
    r"(input|prompt) (is )?too large",
    r"(上下文|输入|提示词?|prompt)[^。，,]{0,10}(长度|过长|超)",
)
_TOKENS = _words(
    r"(?<!max_)(?<!max_completion_)(?<!max_new_)\btokens?\b[^.;]{0,60}(exceed|must be|must have|less "
    r"than|greater than|<=|too (many|long|large))",
    r"exceed\w*[^.;]{0,60}\btokens?\b",
    r"too many (input |prompt )?tokens",
    r"must have less than \d+ tokens",
    r"token limit",
)
_TOO_LARGE = _words(
    r"request too large", r"tokens must be reduced", r"payload too large|body too large|entity too large"
)
_FILTER_CODE = (
    r"content_?filter|content_policy|moderation_blocked|responsibleaipolicy|data_?inspection_?failed|"
    r"cyber_policy|bio_policy|"
    r"safety_violation|prohibited_content|sensitive|unsafe_"
)
_FILTER = _words(
    r"content[ _]?(management|filter|polic|violat|moderation)",
    r"contentpolicy",
    r"safety (system|check|filter|polic|setting)",
    r"safety_check",
    r"usage (polic|guideline)",
    r"\bmoderation\b",
    r"\bflagged\b",
    r"guardrail",
    r"inappropriate content|\bnsfw\b",
    r"responsible ai",
    r"(sensitive|prohibited|unsafe|harmful) (content|information|words?|material)",
    r"violat\w*[^.]{0,40}(polic|guideline|terms)",
    r"considered high risk",
    r"(blocked|rejected|refused|stopped|declined) (due to|because of|for|by)[^.]{0,25}(safety|content|"
    r"polic)",
    r"content[^.]{0,12}\brisk|\bmoderated\b|(input|output|new)[ _]sensitive",
    r"敏感|违规|审核|不安全",
)
_KEY_CODE = (
    r"invalid_?api_?key|api_?key_invalid|incorrect_api_key|authentication_?(error|failed)|invalid_auth|"
    r"unauthenticated|"
    r"token_not_found_in_db|no_db_connection|unrecognizedclient|invalid_iam_token|missing_api_key|"
    r"expiredtoken|"
    r"invalid_token|no_api_key"
)
_KEY = _words(
    r"api[ _-]?key[^.]{0,30}(not valid|invalid|incorrect|expired|missing|required|revoked|wrong|not "
    r"found|does not exist)",
    r"(invalid|incorrect|wrong|missing|expired|malformed|no|unknown|bad|provide an) (or missing )?(api[ "
    r"_-]?keys?|access token|auth\w*|credentials?|"
    r"bearer|proxy server token|subscription key)",
    r"(didn't|did not|must) provide[^.]{0,20}api key",
    r"unauthorized|not authenticated|authentication (failed|error)",
)
_CAPACITY = _words(
    r"overload",
    r"\bcapacity\b",
    r"\bbusy\b",
    r"high (demand|load|traffic)",
    r"resource[ _]unavailable",
    r"temporarily unavailable",
    r"no (healthy|available) (instances?|workers?|backends?|upstream)",
    r"queue is full",
    r"capacity_exhausted",
    r"饱和|繁忙|访问量过大|过载",
)
_NEVER = _words(
    r"\bnot (supported|implemented|available on this)\b",
    r"unsupported",
    r"only base64 data urls",
    r"support for .{0,40} is not",
)
_PASSING = _words(r"crashed|\bdegraded\b|temporar|try again later|internal (server )?error|\boverload")
_PARAMETER = r"unsupported_(parameter|value)|unknown_parameter|invalid_value|extra_forbidden"


OTHER = "no other rule fits"


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of fault and what it looks like: a status among `statuses`, and a code or words, if any are
    given."""

    kind: FaultKind
    why: str
    statuses: range | tuple[int, ...] = _ANY
    codes: str = ""
    words: re.Pattern[str] | None = None
    unless: re.Pattern[str] | None = None
    """Words that speak against it."""
    unless_codes: str = ""
    page: bool = False
    """It takes a web page in place of an answer."""
    quota: str = ""
    """It takes Google's `quotaId` to hold this."""

    def fits(self, status: int, body: ErrorBody) -> bool:
        if status not in self.statuses or (self.page and not body.page):
            return False
        if self.quota:
            return self.quota.lower() in body.values.get("quotaid", "").lower()
        if self.unless is not None and self.unless.search(body.plain):
            return False
        if self.unless_codes and _any_code(self.unless_codes, body):
            return False
        if not self.codes and self.words is None:
            return True
        return bool(self.codes and _any_code(self.codes, body)) or bool(
            self.words is not None and self.words.search(body.plain)
        )


def _any_code(pattern: str, body: ErrorBody) -> bool:
    return any(re.search(pattern, code) for code in body.codes)


RULES = (
    Rule("no_access", "a proxy wants a login", (407, 511)),
    Rule("no_access", "a proxy's page in place of the API", (403,), page=True),
    Rule(
        "too_many_images",
        "image count",
        _ANY,
        r"too_many_images|image_count",
        IMAGE_COUNT,
        unless=_words(_MEASURE.pattern, _SIDES, _WINDOW.pattern, r"at most 0 image"),
    ),
    Rule(
        "no_vision",
        "no eyes",
        _ANY,
        words=_NO_VISION,
        unless=_words(r"\bformat\b", r"mime", r"system (role|message)"),
    ),
    Rule("no_quota", "payment", (402,)),
    Rule("no_quota", "money code", _ANY, _MONEY_CODE),
    Rule("too_long", "more than a minute's allowance", (413, *_LIMITED), words=_TOO_LARGE),
    Rule("no_quota", "a day's quota", (429,), quota="PerDay"),
    Rule("no_quota", "a day's limit, and no time to wait", (429,), words=_PER_DAY, unless=_TIME_NAMED),
    Rule("no_quota", "money words, and no window of a rate limit", _LIMITED, words=_MONEY, unless=_WINDOW),
    Rule(
        "overloaded",
        "capacity",
        _LIMITED,
        r"capacity|unavailable|overload|engine_overloaded|not_?ready",
        _CAPACITY,
        unless=_words(r"\bper[ _-](min|hour|day)", r"\b[TR]P[MD]\b"),
    ),
    Rule("overloaded", "capacity", (498, 529)),
    Rule("rate_limited", "status", (429,)),
    Rule(
        "rate_limited",
        "rate code",
        (400, 401, 403, 503),
        r"servicequota|throttl|(rate|request)_?limit|too_?many_?requests|limit_requests",
        _words(
            r"\b(rate|[TR]P[MD]) limit (is |was |has been )?(reached|exceeded|hit)",
            r"exceed\w*[^.]{0,60}\b(rate limit|per[ _-](second|minute|hour|day))",
        ),
    ),
    Rule("no_quota", "money words", _CLIENT, words=_QUOTA),
    Rule("no_quota", "an empty account", range(500, 600), words=_EMPTY),
    Rule(
        "overloaded",
        "access is being set up",
        (403,),
        words=_words(r"still being processed", r"is being (set up|activated|provisioned)"),
    ),
    Rule(
        "no_access",
        "the account or its network",
        _CLIENT,
        r"account_deactivated|accessdenied_network",
        _ACCOUNT_HINDERED,
    ),
    Rule(
        "no_model",
        "model code",
        _ANY,
        r"model_?not_?(found|available|exist)|invalid_model|deploymentnotfound|operationnotsupported|"
        r"unknown_model|model_deprecated|model_decommissioned",
    ),
    Rule(
        "no_model",
        "model words",
        (400, 401, 403, 404, 410, 422, 500),
        words=_NO_MODEL,
        unless=_words(r"\bsystem\W+(messages?|roles?|prompts?|instructions?)\b"),
        unless_codes=_PARAMETER,
    ),
    Rule(
        "too_long",
        "length code",
        _ANY,
        r"context_?(length|window)|exceed_context|input_too_large|max_prompt_tokens|string_above_max|"
        r"prompt_too_long|request_too_large|\b1261\b",
    ),
    Rule("too_long", "too large to be sent", (413,)),
    Rule("too_long", "context words", _ANY, words=_CONTEXT, unless=_SIZE),
    Rule("too_long", "token words", _CLIENT, words=_TOKENS, unless_codes=_PARAMETER),
    Rule("filtered", "filter code", _CLIENT, _FILTER_CODE),
    Rule("filtered", "unavailable for legal reasons", (451,)),
    Rule("filtered", "filter words", (400, 403, 422, 451), words=_FILTER),
    Rule("bad_key", "status", (401,)),
    Rule("bad_key", "key code or words", (400, 403), _KEY_CODE, _KEY),
    Rule("bad_key", "status", (403,)),
    Rule("no_model", "address words", (400, 422), words=_ADDRESS),
    Rule("rejected", "not supported", range(500, 600), words=_NEVER),
    Rule("rejected", "not supported", (501, 505)),
    Rule("timeout", "a proxy gave up", (524,)),
    Rule("overloaded", "passing", (408, 409, 424, 425, 499)),
    Rule("overloaded", "server error", range(500, 600)),
    Rule("no_model", "address", (404, 405)),
    Rule("overloaded", "passing words", _CLIENT, words=_PASSING, unless=_BAD_IMAGE),
    Rule("rejected", OTHER),
)


def rule_for(status: int, body: ErrorBody) -> Rule:
    """Return the first rule that fits; the last one always does."""
    return next(rule for rule in RULES if rule.fits(status, body))


def image_limit(body: ErrorBody) -> int | None:
    """Return how many images a server takes, as far as its words say so."""
    words = re.sub(r"\bmessages?(\[\d+\]|\.\d+)\S*", " ", body.plain)
    named = [1 if not number.isdigit() else int(number) for number in IMAGE_LIMIT.findall(words)]
    numbers = named or [int(digits) for digits in re.findall(r"(?<![\w.])\d+(?![\w.]*\d)", words)]
    return min((number for number in numbers if number > 0), default=None)


def is_about_an_image(body: ErrorBody) -> bool:
    """Return whether a rejection is one image's: too small, too thin, too large, or not readable."""
    return bool(
        any(re.search(r"image_(parse|too)|invalid_image|image_error", code) for code in body.codes)
        or _BAD_IMAGE.search(body.plain)
    )
