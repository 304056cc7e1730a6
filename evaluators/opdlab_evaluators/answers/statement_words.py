"""The closed classes of words by which `statements` reads a sentence."""

from __future__ import annotations

from opdlab_evaluators.answers.tokens import DENYING, names_of

LINKS = frozenset(
    names_of(
        "is are was were be equals equal becomes become gives yields makes totals totalled"
        " totaled remains = → ⇒ it's that's there's comes come came :"
    )
)

# Between a link and its value; they change nothing.
FILLERS = frozenset(
    names_of(
        "exactly only just simply still now therefore thus then hence also equal the a an total"
        " grand precisely actually finally again of to same as"
    )
)

# They begin a clause that gives a reason, a time or a place; the statement is what follows.
SUBORDINATE = frozenset(
    names_of(
        "since because as given after before while with by at on in from for out of under upon"
        " once although though even despite including during through throughout considering"
        " assuming knowing to where taking accounting per according thanks due instead between"
        " across over"
    )
)

RESULTS = frozenset(
    names_of("so thus therefore hence consequently accordingly finally ultimately overall")
)

GIVING = frozenset(names_of("leaving giving making totaling totalling yielding resulting"))

PREPOSITIONS = frozenset(
    names_of(
        "of to from after before until till by than with for without per as like into across"
        " along against since over under above below within between among in on at near around"
        " through during past beyond toward towards except plus minus times about inside outside"
        " upon via versus vs divided"
    )
)

ARTICLES = frozenset(
    names_of(
        "the a an all both these those his her their its my our your only exactly first last"
        " another"
    )
)

KNOWN = frozenset(names_of("the all both these those his her their its our my your each every"))

# Beside a value in the same clause they may make another one of it.
CHANGING = frozenset(
    names_of(
        "pi sqrt ln log theta too not no nor neither never none cannot isn't aren't wasn't"
        " doesn't don't won't can't didn't either or maybe perhaps possibly probably might may"
        " could unless whether if suppose assume guess guessed estimate estimated wrong incorrect"
        " mistake contradiction impossible approximately about roughly nearly almost around circa"
        " least most twice thrice half double triple quadruple halved doubled tripled squared"
        " cubed factorial times fold reciprocal inverse opposite negative negation square cube"
        " root multiple multiples divisor divisors factor factors power digit digits complement"
        " less fewer greater larger smaller older younger taller longer shorter bigger higher"
        " lower faster slower heavier cheaper exceeds exceed exceeding short shy except excluding"
        " besides minus plus choose mod modulo base remainder divisible between until till before"
        " under above below beyond within past rather instead but however should thirds halves"
        " quarters fifths pairs pair odd wait hmm error extraneous rejected denotes assuming"
        " unknown other next lacks lack lacking misses contradicts without exception compute"
        " computing"
    )
)

COUNTED_THINGS = frozenset(
    names_of(
        "step case part equation question problem example page chapter option exercise line"
        " figure section note hint check number day year week method room grade class lesson"
        " formula item row column verify nearest verification given recall type level round"
        " attempt try iteration q p eq january february march april june july august september"
        " october november december"
    )
)

TOTALS = frozenset(
    names_of(
        "total difference count tally rate speed profit loss cost price value amount distance"
        " length height width weight age area volume perimeter score average mean population rise"
        " gain tip fee fine balance salary income deposit capacity depth radius diameter"
        " temperature payment savings maximum minimum result increase decrease"
    )
)

CHANGES = frozenset(
    names_of(
        "grew increased decreased rose fell dropped improved declined grows increases rises grown"
        " risen fallen"
    )
)

# Before `to` a number is where something arrives, before `into` how many parts there are.
MOVED = CHANGES | {"reduced", "drops", "falls", "down", "lowered", "raised", "decreases"}
PARTED = frozenset(names_of("fit fits cut cuts divide divides divided split splits sliced"))

OPERATORS = frozenset("+-−*/×·⋅÷^<>≤≥±√∈∪|&_≠~!?°º′″'")

DENIED_IN_SUBJECT = (
    DENYING - set(names_of("or no non not nor but near close neither without except rule"))
) | frozenset(
    names_of(
        "supposed meant thought believed claimed contradicts contradict rule rules ruled excludes"
        " exclude lacks lack let maybe perhaps possibly probably might may could unless whether if"
        " suppose assume guess wrong incorrect mistake contradiction impossible assuming twice"
        " thrice half double isn't unknown exercise undetermined aren't wasn't doesn't don't won't"
        " can't didn't cannot instead rather extraneous wait hmm error square-root approximately"
        " about roughly nearly almost"
    )
)

# They change a value only directly beside it, where `_value` looks.
HARMLESS = frozenset(
    names_of(
        "square day number factor factors divisors multiples pair pairs digit digits year week"
        " should past other next"
    )
)

# Behind a subject or a circumstance they change nothing.
IN_FRONT = HARMLESS | frozenset(
    names_of(
        "divisible or neither nor not multiple factor factors divisors divisor between less more"
        " square cube root remainder before until short negative under over above below within"
        " other odd times next should greater fewer larger smaller older younger"
    )
)

LEFT = frozenset(names_of("left remaining needed required available unused over"))

# They give a reason, and whatever that says changes nothing.
GIVEN = frozenset(names_of("since because given as after considering"))

# What is done to a number on the way.
WORKING = frozenset(
    names_of(
        "add subtract multiply divide plug substitute insert removed added subtracted multiplied"
        " tried tested"
    )
)

ORDERS = frozenset(
    names_of(
        "evaluate compute find calculate determine take use remove put move start try choose pick"
        " replace set draw keep write"
    )
)

REACHING = frozenset(names_of("me us him her them you reach reaches totals conclude that"))

# In a condition they set a case that may or may not be so.
UNSURE = frozenset(
    names_of("we you i not it it's instead otherwise ignore unless biased wins were had would")
)

SOMEONE = frozenset(names_of("he she they each every all both everyone everybody"))

REACHED = frozenset(
    names_of(
        "telescopes evaluates converges reduces simplifies works amounts amount comes come"
        " corresponds equates sums sum adds equivalent totals"
    )
)

BRINGING = frozenset(names_of("brings bring bringing brought raises raising"))

PARTS = frozenset(
    names_of(
        "fraction part portion rest most some each one all none any out instead because percent"
        " number share"
    )
)

DENYING_BEHIND = frozenset(
    names_of("not impossible wrong incorrect false isn't true always contradiction contradicts")
)

LEAVING = frozenset(
    names_of(
        "leaves leave leaving left end ends ended ending start started began begins finish finished"
    )
)


# Words of no other language with Latin letters.
ENGLISH = frozenset(
    names_of(
        "the of and is are were has have had he she they his her their this that with for from by"
        " we it will be each there which left you your our its been at after before so thus hence"
        " therefore equals = total answer result was when if all only can would could should must"
        " gets these those into who whose what being am since more than that's it's he's she's get"
        " makes does cost costs"
    )
)

# Where an amount follows, or nothing, they compare the value with it: `5 below 99`.
COMPARING = frozenset(names_of("before until till above below under beyond within between"))
