"""Where the concepts of a corpus come from: the options, and the words that are never one."""

from dataclasses import dataclass, field

from metrics.errors import InputError

# Function words, and words that judge or count rather than name what is judged.
_STOP_WORDS = """
a about above after again all almost also although always am an and another any anything are aren't around as at
away back be because been before being best better between big bit both but by came can can't cannot come could
couldn't definitely did didn't do does doesn't doing don't done down each either else enough especially even ever
every everyone everything few find first for found from get gets getting give go goes going good got great had has
hasn't have haven't having he her here him his how however i i'd i'll i'm i've if in into is isn't it it's its just
keep know last least less let like liked little long look lot lots love loved made make makes many may maybe me
might more most much must my myself need needs never new next nice no not nothing now of off often ok old on once
one only or other others our out over own perfect place pretty put quite rather really right said same say see
she should so some something soon still such sure take than that that's the their them then there these they thing
things think this those though through time to together too took tried try two under until up us use used using
usually very want wanted was wasn't way we well went were weren't what when where which while who whole why will
with without won't worked works worth would wouldn't yes yet you your bad worse worst awful amazing awesome
excellent fantastic terrible wonderful decent happy disappointed disappointing recommend recommended
since during via per against along without toward towards upon whether though although mine ones itself yourself himself
herself themselves ourselves second third plus fact times day days week weeks month months year years hour hours minute
minutes time people person guy guys someone anyone everybody nobody none i'm i'd i've it'll that'll ain't gonna
three four five six seven eight nine ten half several various multiple certain particular similar different real full
extra main whole entire ago anyway unless except etc instead later otherwise onto within across perhaps maybe forever
apart wow oh im near past twice despite behind below inside outside whatever whoever wherever anywhere somewhere today
actually probably exactly simply easily completely absolutely basically honestly personally unfortunately hopefully
highly fairly slightly extremely quickly finally currently originally initially especially mostly nearly recently
thanks thank btw ok okay yeah course sort kind lots bunch couple bit deal reason reasons regarding etc.
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


SOURCES = ("auto", "given", "statistical", "spacy", "list")


@dataclass(frozen=True)
class ConceptOptions:
    """Where concepts come from, and which ones are kept of those that are extracted."""

    concept_source: str = field(
        default="auto",
        metadata={
            "help": "given: those of the records; statistical: extracted by counts; spacy: noun chunks; list: yours; "
            "auto: given, or statistical where no record names any"
        },
    )
    concept_list: str = field(default="", metadata={"help": "concept_source=list: text file, one concept a line"})
    concept_model: str = field(
        default="en_core_web_sm", metadata={"help": "concept_source=spacy: an installed spaCy model"}
    )
    concept_min_count: int = field(
        default=5, metadata={"help": "a concept stands in at least this many train texts (when it is extracted)"}
    )
    concept_max_share: float = field(default=0.1, metadata={"help": "... and in at most this share of the train texts"})
    concept_top: int = field(
        default=0,
        metadata={
            "help": "keep this many, the most frequent ones; 0: four times the root of the number of train records"
        },
    )

    def __post_init__(self) -> None:
        if self.concept_source not in SOURCES:
            raise InputError(f"concept_source={self.concept_source} is unknown: use {', '.join(SOURCES)}.")
        if (self.concept_source == "list") != bool(self.concept_list):
            raise InputError("concept_source=list and concept_list=FILE go together: give both or neither.")
        if self.concept_min_count < 1:
            raise InputError(f"concept_min_count={self.concept_min_count} must be 1 or more.")
        if not 0 < self.concept_max_share <= 1:
            raise InputError(f"concept_max_share={self.concept_max_share} must lie above 0 and not above 1.")
        if self.concept_top < 0:
            raise InputError(f"concept_top={self.concept_top} must be 1 or more, or 0 for a number by the records.")
