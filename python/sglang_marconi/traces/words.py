"""The words generated text is made of.

Common ones of support, engineering and agent conversations; a small tokenizer can hold every one
of them as a token.
"""

_TEXT = """
able about above accept access account across action active add address after again agent
agree ahead air all allow almost alone along already also always amount and another answer any
apply area around ask away back bad balance base basic batch be because become before begin
behind below best better between big bill block board book both box branch bring budget build
business but buy by call can cancel card care carry case cash cause center chain chance change
charge check choice choose city claim class clean clear client close cloud code cold collect
come common company complete confirm connect contact contain content continue copy correct cost
could count country course cover create credit current customer cut daily data date day deal
decide deep default delay delete deliver demand describe design detail device different direct
discount do document door double down draft draw drive drop during each early easy edit either
else email empty end enough enter entry equal error even event ever every exact example except
exchange expect explain extra fact fail fair family far fast fee few field file fill final find
fine first fit fix flag flight flow follow food for force form found free frequent from front
full function future gate general get give go goal good great group grow guest guide half hand
handle happen hard have head hear heavy help here high hold home hope hotel hour house how idea
if image important in include increase inform inside instead into invoice issue item job join
just keep key kind know label land large last late later lead learn least leave left legal less
letter level light like limit line link list little live local lock long look lose loss lot low
main make manage many map mark market match matter may mean measure meet member memory message
method might mind minute miss mode model money month more most move much must name near need
network never new next night no normal not note nothing notice now number object of off offer
office often old on once one only open option or order other out over own pack page paid paper
part party pass past pay people perhaps period person phone pick place plan play please point
policy post power present press price print problem process product profile program promise
proof public pull purchase push put quality question quick quite quote raise range rate reach
read ready real reason receive record reduce refund region remain remember remove rent repair
repeat reply report request require reserve rest result return review right risk road role room
round route row rule run safe sale same save say scale school screen search seat second secure
see sell send serve service session set several share ship shop short should show side sign
simple since single site size slow small so sold some soon sort source space speak special spend
staff stand start state stay step still stock stop store street strong such sum supply support
sure switch system table take talk task team tell term test than that the their then there
these they thing think third this those ticket time to today together tomorrow too tool top
total track trade train travel trip true try turn type under unit until up update upgrade use
user valid value version very view visit voice wait walk want warn watch way we week weight well
what when where which while who whole why wide will window wish with within without word work
world write wrong year yes yet you your zone
"""

WORDS = tuple(_TEXT.split())
