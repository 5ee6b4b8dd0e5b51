"""Every bound of btor, with its reason. Lengths are bytes and times seconds unless the name says otherwise.

A test sits on each bound and one steps over it.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024

# --- bencoding: nothing is parsed deeper or longer than its use needs ---------------------------------------
TORRENT_DEPTH: Final = 100  # .torrent files and resume records
MESSAGE_DEPTH: Final = 10  # tracker replies, extension messages, DHT
TORRENT_TOKENS: Final = 3_000_000
MESSAGE_TOKENS: Final = 20_000
INTEGER_CHARACTERS: Final = 20  # int64 with its sign; CPython's int() fails above 4,300 digits
STRING_LENGTH_DIGITS: Final = 10

# --- metainfo ------------------------------------------------------------------------------------------------
TORRENT_FILE_SIZE: Final = 48 * MIB  # real ones of 24 MB exist
PIECE_COUNT: Final = 2_097_152
PIECE_LENGTH_V1: Final = 536_854_528  # 32,767 blocks
V2_PIECE_LENGTH_MIN: Final = 16 * KIB
TOTAL_LENGTH: Final = 2**48 - 1
FILE_COUNT: Final = 300_000
SIDE_ENTRIES: Final = 4 * FILE_COUNT  # of a side file, maybe a foreign one: two parts of each file, used twice
FOLDER_COUNT: Final = 300_000  # as many as files: else 100 unique ones for each file would be 30 million
PATH_DEPTH: Final = 100
LINK_CHAIN: Final = 8  # links that the target of a link may lead through
LINK_STEPS: Final = 2_000_000  # elements walked to resolve the links of one torrent: 0.2 s
PATH_ELEMENT: Final = 240  # leaves room for ".NNN" below the 255 of file systems
PATH_LENGTH: Final = 4_096
DUPLICATE_NAMES: Final = 500
TRACKERS: Final = 1_000
WEB_SEEDS: Final = 256
DHT_NODES: Final = 256
URL_LENGTH: Final = 16 * KIB
MAGNET_LENGTH: Final = 64 * KIB
MAGNET_REPEATS: Final = 100  # of each of tr, ws, x.pe
MAGNET_FILE_INDEX: Final = 2**20
DISPLAY_CHARACTERS: Final = 256  # of any foreign string shown to a person

# --- the peer wire -------------------------------------------------------------------------------------------
BLOCK: Final = 16 * KIB  # BEP 3
HANDSHAKE: Final = 68
MESSAGE_HEADER: Final = 4  # the length prefix
PIECE_HEADER: Final = 13  # length, id, piece, begin
EXTENDED_MESSAGE: Final = 128 * KIB
EXTENSION_HANDSHAKE: Final = 16 * KIB  # of BEP 10; those of other clients are below 1 KiB
REQUEST_QUEUE_ANNOUNCED: Final = 500  # the ``reqq`` that we announce
REQUEST_QUEUE_UNSAID: Final = 250  # that a peer is taken to hold which speaks BEP 10 and names no ``reqq``
ALLOWED_FAST: Final = 10  # pieces of the canonical set, BEP 6
ALLOWED_FAST_HEARD: Final = 64  # pieces that one peer may allow us; others take 5 or 10
ALLOWED_FAST_COPIES: Final = 3  # of such a piece to one peer while it is choked
ALLOWED_FAST_ONE_IN: Final = 100  # pieces of a torrent that one peer may be allowed: of a small one, none
ALLOWED_FAST_PART: Final = 10  # all peers together get so one byte in ten of the content and of what was sent
SUGGESTIONS: Final = 16  # of one peer that are kept
BAD_REJECTS: Final = 50  # of requests that were never made; one too many ends the connection
HAVES_AT_ONCE: Final = 1_024  # told one by one to a peer that was told we have nothing; more as a bitfield
DONT_HAVES: Final = 256  # lt_donthave a second: each costs a look at all pieces of a large torrent
UNKNOWN_MESSAGE: Final = 64 * KIB  # a larger one of an unknown id ends the connection
HANDSHAKE_TIMEOUT: Final = 10.0  # absolute, from accept or connect to the full handshake
CONNECT_TIMEOUT: Final = 15.0
KEEP_ALIVE: Final = 60.0  # sent after that long without sending
DEAD_PEER: Final = 180.0  # closed after that long without receiving
NO_MUTUAL_INTEREST: Final = 600.0
INTEREST_FLIPS: Final = 64  # changes of interest a second; an honest peer changes with the pieces it gets
REQUESTS_WHILE_CHOKED: Final = 300  # honest ones cross our choke on the way, of a slow link for long
SEND_BACKLOG: Final = 512 * KIB  # of messages that a peer does not take, beside a bitfield
SILENT_REQUESTER: Final = 60.0  # unchoked and interested, yet asks nothing
STUCK_RECEIVER: Final = 120.0  # has asked, and its socket takes nothing: who reads 1 KB/s makes room in that time
PENDING_HANDSHAKES: Final = 256
PENDING_PER_NETWORK: Final = 8  # of one /24 or /64
HALF_OPEN: Final = 100
DIALS_PER_SECOND: Final = 30
DIALS_PER_ADDRESS: Final = 3  # in DIAL_WINDOW, over all torrents and ports
DIALS_PER_NETWORK: Final = 20  # of one /24 in DIAL_WINDOW
DIAL_WINDOW: Final = 60.0
DIAL_FAILURES: Final = 3
DIAL_RETRY: Final = 60.0  # times one more than the failures so far
DIAL_RETRY_USER_MIN: Final = 1.0  # to peers that the user named, and on loopback; doubled each time
DIAL_RETRY_USER_MAX: Final = 30.0
CUT_OFF: Final = 30.0  # without an answer of anybody: then it is the network that is gone
CUT_OFF_PROBE: Final = 20.0  # between dials while it is, to find out whether it is back
SUSPENDED: Final = 60.0  # unseen: connections and addresses may be gone
SEEDS_APART: Final = 600.0  # between dials to a peer that is as complete as we are, where dials never end
RECONNECT: Final = 5.0  # to a peer whose connection was worth having
TRUSTED_AFTER_HANDSHAKE: Final = 600.0  # no dial budget holds such an address back
PEER_LIST: Final = 3_000
PEER_LIST_PAUSED: Final = 1_000
WEED_PERIOD: Final = 10.0  # a full list is not searched more often for what can go
OWN_ADDRESSES: Final = 64  # a peer can echo our id from any number of addresses
BANS: Final = 10_000
BANS_KEPT: Final = 1_000  # in the resume record of a torrent, the latest
PEER_SHARE_OF_LIST: Final = 0.25  # from one peer's exchange
TURNOVER_PERIOD: Final = 300.0
TURNOVER_SHARE: Final = 0.04
TURNOVER_FULL: Final = 0.9

# --- metadata (BEP 9) ------------------------------------------------------------------------------------------
METADATA_PIECE: Final = 16 * KIB
METADATA_SIZE: Final = 48 * MIB  # as a torrent file; the largest of 6,498 real ones has 4.2 MB
METADATA_ATTEMPTS: Final = 2  # sizes or sources at once, each with a buffer of what it has received
METADATA_ASKED: Final = 8  # pieces of one peer at once; of 16 or 32 at once libtorrent answered 1 or 3 s late
METADATA_PATIENCE: Final = 1.0  # without an answer, after which another peer is asked beside it
METADATA_STALL: Final = 10.0  # without an answer, after which a peer rests
METADATA_REST: Final = 60.0  # of a peer that rejected or stalled
METADATA_QUEUE: Final = 64  # requests of one peer that wait; more are rejected
METADATA_BACKLOG: Final = 64 * KIB  # sent ahead to one peer
METADATA_COPIES: Final = 3  # that one connection is served
CLAIMED_BITFIELD: Final = 256 * KIB  # kept of a peer before the metadata is there: 2,097,152 pieces
CLAIMED_HAVES: Final = 1_024  # likewise

# --- peer exchange (BEP 11) and local discovery (BEP 14) ---------------------------------------------------------
OWN_IP_VOTES: Final = 64  # networks whose word on our own address is kept
OWN_IP_VOTES_NEEDED: Final = 2
PEX_PERIOD: Final = 60.0  # between two messages to one peer
PEX_MESSAGES: Final = 4  # that a peer may send in PEX_PERIOD; one more ends the connection
PEX_PEERS: Final = 100  # added, and dropped, of one message that are read
LSD_DATAGRAM: Final = 1_400
LSD_HASHES: Final = 20  # torrents of one datagram: 54 bytes each
LSD_PERIOD: Final = 300.0  # between two words on one torrent
LSD_GAP: Final = 60.0  # between two datagrams
LSD_PACKET_GAP: Final = 1.0  # between two datagrams of one sender that count
LSD_SENDERS: Final = 1_024  # remembered for that
PEX_SENT: Final = 50  # added, and dropped, that one message of ours holds

# --- requests ------------------------------------------------------------------------------------------------
REQUEST_QUEUE_MIN: Final = 4
REQUEST_QUEUE_MAX: Final = 500
REQUEST_QUEUE_SECONDS: Final = 0.5  # of the peer's rate
PORT_MAX: Final = 65_535
REQUESTS_ACCEPTED: Final = 1_000  # twice the reqq that the peer has heard; above, they are dropped
REQUESTS_ACCEPTED_UNSAID: Final = 8_000  # where it has heard none: Transmission 3.00 opens thousands then
REQUESTS_UNANSWERED: Final = 2  # times what is accepted; above, the connection ends
BAD_REQUESTS: Final = 50
UNREQUESTED_BLOCKS: Final = 2  # the second ends the connection
REQUEST_GRACE_AFTER_CHOKE: Final = 2.0
SNUB_AFTER: Final = 20.0
REQUEST_TIMEOUT_MIN: Final = 2.0
REQUEST_TIMEOUT_MAX: Final = 60.0
BLOCK_OWNERS: Final = 3  # in the endgame
RANDOM_FIRST_PIECES: Final = 4
OPEN_PIECES_PER_PEER: Final = 1.5
OPEN_BLOCKS: Final = 2_048
AFFINITY_SECONDS: Final = 20.0
AFFINITY_BYTES: Final = 8 * MIB
FORGIVEN_PIECES: Final = 1_024  # of one source: pieces with void requests whose blocks may still come
BLAMED_PIECES: Final = 64  # failed pieces whose block digests are remembered
BLAMED_BYTES: Final = MIB  # of those digests

# --- choking -------------------------------------------------------------------------------------------------
CHOKE_ROUND: Final = 10.0
UPLOAD_SLOTS: Final = 8
OPTIMISTIC_PERIOD: Final = 30.0
SLOTS_PER_OPTIMISTIC: Final = 5
NEWCOMER: Final = 60.0  # connected for less than that
NEWCOMER_WEIGHT: Final = 3  # in the draw for an optimistic slot, BEP 3
CHOKE_FLIP_GUARD: Final = 10.0
SEED_QUOTA_PIECES: Final = 20
SEED_QUOTA_SECONDS: Final = 60.0

# --- trackers ------------------------------------------------------------------------------------------------
TRACKER_REPLY: Final = MIB  # before and after inflating
TRACKER_HEADERS: Final = 32 * KIB
TRACKER_REDIRECTS: Final = 5
TRACKER_CONNECT: Final = 10.0
TRACKER_TOTAL: Final = 30.0
TRACKER_STOP: Final = 5.0
TORRENT_URL_TOTAL: Final = 300.0  # to fetch a torrent file; silence for TRACKER_TOTAL ends it sooner
TRACKER_NEXT_AFTER: Final = 5.0  # without a reply the next tracker of the tier is asked beside it
TRACKER_NEXT_AFTER_FIRST: Final = 1.5  # likewise while no tracker of the tier has answered yet
TRACKER_PARALLEL: Final = 50
TRACKER_STARTS: Final = 50  # announces begun in a second: all may be due at once after a suspend
TRACKER_LOOK_UPS: Final = 30  # of names at once: each holds one of the 40 threads that trio has
TRACKER_PEERS_PARSED: Final = 1_000
TRACKER_PEERS_USED: Final = 200
TRACKER_NUMWANT: Final = 200
TRACKER_INTERVAL_DEFAULT: Final = 1_800.0
TRACKER_INTERVAL_MIN: Final = 60.0
TRACKER_INTERVAL_MIN_LOOPBACK: Final = 1.0
TRACKER_INTERVAL_MAX: Final = 86_400.0
TRACKER_RETRY_MIN: Final = 60.0
TRACKER_RETRY_MAX: Final = 3_600.0
TRACKER_RETRY_MIN_LOOPBACK: Final = 1.0
TRACKER_RETRY_MAX_LOOPBACK: Final = 30.0
TRACKER_HURRY_MAX_LOOPBACK: Final = 5.0  # between announces of a torrent without peers
TRACKER_HURRY_SEEDS: Final = 2.0  # between two seeds that hurry, of all: a thousand would never let a tracker rest
TRACKER_NAMES: Final = 50  # host names of one reply that are looked up
TRACKER_SCRAPE_MIN: Final = 300.0
TRACKER_SCRAPE: Final = 1_800.0  # after that long without figures of seeds and leechers
TRACKER_ID: Final = KIB  # a longer tracker id is not echoed: it becomes part of a URL
TRACKER_MESSAGE: Final = 1_000  # characters of a failure reason or warning that are kept
UDP_TRACKER_PACKET: Final = 16 * KIB
UDP_TRACKER_SENDS: Final = 4
UDP_TRACKER_RESEND: Final = 15.0  # doubled each time, BEP 15
UDP_CONNECTION_LIFE: Final = 60.0
UDP_DRAIN: Final = 64  # datagrams a wake-up

# --- the DHT -------------------------------------------------------------------------------------------------
DHT_DEPTH: Final = 10
DHT_TOKENS: Final = 250  # 179 peers fill the longest packet; whatever is no string counts for DHT_TOKEN_WEIGHT
DHT_TOKEN_WEIGHT: Final = 4  # and takes as much longer to decode: nonsense must not cost more than an answer
DHT_PACKET: Final = 1_500  # taken; longer datagrams are nothing that a node sends
DHT_ANSWER: Final = 1_024  # sent, at most: passes every path in one packet (BEP 32)
DHT_TRANSACTION: Final = 16  # bytes of a transaction id
DHT_TOKEN: Final = 64  # bytes of a foreign token that are carried to an announce
DHT_ERROR_TEXT: Final = 256
DHT_BUCKET: Final = 8  # K of Kademlia
DHT_WIDE_BUCKETS: Final = (128, 64, 32, 16)  # the first ones hold more: fewer steps for little memory
DHT_PARALLEL: Final = 4  # alpha: questions of one lookup on the way
DHT_PARALLEL_PER_NETWORK: Final = 2  # of them to one /24 or /64
DHT_SLOW: Final = 1.0  # after that long without an answer another may be asked beside it
DHT_TIMEOUT: Final = 10.0
DHT_CANDIDATES: Final = 100  # kept of one lookup, the closest ones
DHT_OUTSIDERS: Final = 24  # asked in one lookup of nodes whose ids do not fit their addresses
DHT_LOOKUP_QUERIES: Final = 400  # of one lookup in all
DHT_LOOKUP_PEERS: Final = 2_000  # kept of one lookup
DHT_LOOKUPS: Final = 64  # at once; further ones wait
DHT_PLAUSIBLE_BITS: Final = 8  # shared with a target beyond log2 of the nodes: chance gives that to one in 256
DHT_GOOD: Final = 900.0  # a node that was heard of within that long is good (BEP 5)
DHT_FAILURES: Final = 2  # questions unanswered in a row: bad
DHT_CHECK: Final = 5.0  # between two looks at the node that was silent for longest
DHT_REFRESH: Final = 900.0  # of the own neighbourhood
DHT_BOOTSTRAP_RETRY_MIN: Final = 5.0  # doubled each time while fewer than a bucket's nodes are known
DHT_BOOTSTRAP_RETRY_MAX: Final = 300.0
DHT_UNKNOWN_PINGS: Final = 8  # on the way at once to nodes that asked us and are not known yet
DHT_SAVED_NODES: Final = 300
DHT_KNOWN_ADDRESSES: Final = 512  # without an id: saved, or named by torrents, peers and the user, to start from
DHT_TOKEN_ROTATION: Final = 300.0  # the secret before stays good: a token lives five to ten minutes
DHT_TORRENTS: Final = 2_000  # whose peers are stored
DHT_TORRENT_PEERS: Final = 500  # stored of one torrent
DHT_PORTS_PER_LOOPBACK: Final = 8  # there one address is many peers
DHT_PEER_LIFE: Final = 2_700.0  # of a stored peer that announces no more
DHT_SAMPLES: Final = 20  # info-hashes of one answer (BEP 51)
DHT_SAMPLE_INTERVAL: Final = 21_600  # what we ask of those who sample
DHT_SWEEP: Final = 60.0  # between two looks at all torrents for peers that have expired: half a millisecond
DHT_FILTER_AGE: Final = 60.0  # of a Bloom filter that is given out: to make one takes a while
DHT_FLOOD_PACKETS: Final = 50  # of one address in DHT_FLOOD_WINDOW; more, and it is not heard for DHT_FLOOD_BLOCK
DHT_FLOOD_WINDOW: Final = 10.0
DHT_FLOOD_BLOCK: Final = 300.0
DHT_FLOOD_ADDRESSES: Final = 4_096
DHT_ANSWER_RATE: Final = 8_000  # bytes a second in all, answers and errors
DHT_ANSWER_BURST: Final = 16_000
DHT_VOTES: Final = 64  # of other nodes on our address, one of each network
DHT_VOTES_NEEDED: Final = 5
DHT_ANNOUNCE: Final = 900.0
DHT_ANNOUNCE_ALONE: Final = 60.0  # likewise while the torrent has no peer
DHT_ANNOUNCE_RETRY: Final = 5.0  # when no node has answered; doubled each time up to DHT_ANNOUNCE
DHT_SAVE: Final = 600.0

# --- the embedded tracker: made for the swarms of one machine or one network ------------------------------------
TRACKED_TORRENTS: Final = 4_096
TRACKED_PEERS: Final = 65_536  # of all torrents: about 30 MB
TRACKED_PEERS_PER_TORRENT: Final = 2_048  # an answer looks at each of them once
TRACKED_SILENCE: Final = 2.0  # intervals without an announce after which a peer is gone
TRACKED_INTERVAL: Final = 300.0  # asked of the peers: short, for a swarm of one network comes and goes
TRACKED_SWEEP_MAX: Final = 60.0  # between two searches for peers that are gone
TRACKER_ANSWER: Final = 200  # peers of one answer
TRACKER_ANSWER_DEFAULT: Final = 50  # where the peer names no number
TRACKER_CONNECTIONS: Final = 256  # HTTP at once; one more ends the one that has waited longest
TRACKER_REQUEST_HEAD: Final = 8 * KIB  # of HTTP; a scrape of 74 torrents takes 6 KiB
TRACKER_REQUEST_TIMEOUT: Final = 10.0  # from accept, or the last answer, to the end of the answer
TRACKER_LINGER: Final = 1.0  # for the other side to take a refusal before the connection closes
UDP_TRACKER_ID_LIFE: Final = 120.0  # of a connection id, BEP 15
UDP_TRACKER_ANSWER: Final = 1_232  # bytes that pass every IPv6 path in one packet: 200 IPv4 peers

# --- the machine ---------------------------------------------------------------------------------------------
GULP_MIN: Final = 64 * KIB
GULP_MAX: Final = 4 * MIB
GULP_TURN: Final = 2 * MIB  # received from all peers together in one turn of the loop, where several have something
SEND_GULP: Final = MIB
OUT_OF_ORDER: Final = 4 * MIB  # blocks held for an inline hash, a session; above, the piece is read back
DISK_QUEUE_HIGH: Final = 16 * MIB  # waiting for a slow disk, a session; above, peers are not read
DISK_QUEUE_LOW: Final = 12 * MIB
SLOW_WRITE_PER_MIB: Final = 0.005
STALLED_WRITE: Final = 0.050
OPEN_FILES: Final = 128
DESCRIPTORS: Final = 65_536
DESCRIPTORS_RESERVED: Final = 64  # for sockets of trackers, pipes of hashers, records, logs: what is not shared out
CLAIM_WAIT: Final = 5.0  # for others to enter what they write to: takes them milliseconds, unless they are stopped
CHECKPOINT_PERIOD: Final = 5.0  # of the resume record
RESUME_SAMPLE: Final = 256 * MIB  # hashed of files written to after the record: a second or two, of small ones all
RESUME_RECORD_SIZE: Final = 16 * MIB  # twice that of the most pieces and files a torrent may have
SHUTDOWN: Final = 5.0  # one deadline for writes, record and stopped announces
WATCH_PERIOD: Final = 10.0  # between two looks at content that is given to others
WATCH_FILES: Final = 1_000  # looked at each time, of all torrents: 2 ms
FILES_NAMED: Final = 5  # of those that something has happened to; the others are counted
HASHER_END: Final = 0.5  # for a killed hasher to end; one on a disk that hangs cannot
FREE_SPACE_PROBE: Final = 30.0
EVENT_QUEUE: Final = 1_000
IDLE_TICKS: Final = 100  # torrents without peers that are looked at each second, in turn: 2 ms

# --- rates ---------------------------------------------------------------------------------------------------
RATE_BURST: Final = 0.25  # seconds of the limit
