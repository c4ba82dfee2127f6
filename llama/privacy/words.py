"""Word lists of the patterns: places, kinds of streets, given names, and words that are not names.

Word lists only, lower case; Indonesian and English. All are common knowledge; none comes from a person's data.
"""

from __future__ import annotations

from llama.text.dates import MONTHS

CITIES_ID = tuple(
    """
    jakarta selatan|jakarta pusat|jakarta barat|jakarta timur|jakarta utara|jakarta|bandung|surabaya|medan|semarang|
    yogyakarta|jogjakarta|jogja|bekasi|depok|tangerang selatan|tangerang|bogor|malang|makassar|palembang|denpasar|
    padang panjang|padangpanjang|padangsidempuan|padang|balikpapan|solok|solo|surakarta|pekanbaru|pontianak|manado|
    batam|cirebon|samarinda|banjarmasin|banjarbaru|banjar|mataram|kupang|ambon|jayapura|jambi|bengkulu|
    bandar lampung|serang|cilegon|sukabumi|tasikmalaya|purwokerto|magelang|salatiga|tegal|pekalongan|kediri|blitar|
    madiun|mojokerto|pasuruan|probolinggo|jember|banyuwangi|gresik|sidoarjo|kudus|klaten|sleman|bantul|cimahi|garut|
    karawang|purwakarta|subang|binjai|pematangsiantar|banda aceh|lhokseumawe|langsa|bukittinggi|payakumbuh|pariaman|
    dumai|tanjungpinang|pangkalpinang|lubuklinggau|metro|singkawang|palangka raya|palangkaraya|tarakan|bontang|
    gorontalo|bitung|tomohon|palu|kendari|baubau|parepare|palopo|ternate|tidore kepulauan|tidore|sorong|bima|tual|
    sabang|subulussalam|prabumulih|pagaralam|pagar alam|sungai penuh|sawahlunto|sibolga|tanjungbalai|tebingtinggi|
    tebing tinggi|batu|kotamobagu|gunungsitoli
    """.replace("\n", "")
    .replace("    ", "")
    .strip("|")
    .split("|")
)

PROVINCES_ID = tuple(
    """
    aceh|sumatera utara|sumatera barat|sumatera selatan|sumatra utara|sumatra barat|sumatra selatan|kepulauan riau|
    riau|lampung|kepulauan bangka belitung|bangka belitung|banten|dki jakarta|jawa barat|jawa tengah|jawa timur|
    jabar|jateng|jatim|daerah istimewa yogyakarta|di yogyakarta|diy|bali|nusa tenggara barat|nusa tenggara timur|
    ntb|ntt|kalimantan barat|kalimantan tengah|kalimantan selatan|kalimantan timur|kalimantan utara|sulawesi utara|
    sulawesi tengah|sulawesi selatan|sulawesi tenggara|sulawesi barat|maluku utara|maluku|papua barat daya|
    papua barat|papua selatan|papua tengah|papua pegunungan|papua
    """.replace("\n", "")
    .replace("    ", "")
    .strip("|")
    .split("|")
)

# From the United States Postal Service's list of street suffixes (Publication 28, C1), and British ones.
STREET_TYPES_EN = tuple(
    """
    street st road rd avenue ave lane ln drive dr boulevard blvd court ct way place pl square sq terrace parkway pkwy
    highway hwy circle cir close crescent row walk mews grove gardens hill alley loop plaza trail pass path point
    ridge run spur spurs station stravenue stream summit throughway trace track trafficway tunnel turnpike union
    unions valley valleys via viaduct view views village villages ville vista walks wall ways well wells meadow
    meadows manor manors mall light lights lock locks lodge mill mills mission mount mountain mountains motorway neck
    orchard oval overpass park parks parkways passage pike pine pines plain plains plazas port ports prairie radial
    ramp ranch rapid rapids rest ridges river roads route rue shoal shoals shore shores skyway spring springs haven
    harbor harbors green greens glen glens garden gateway fork forks forge forges forest fort freeway ford fords flat
    flats field fields ferry falls fall extension extensions expressway estate estates divide dale dam curve crossroad
    crossroads crossing crest creek course courts cove coves corner corners common commons cliff cliffs club center
    centers causeway canyon camp cape bypass brook brooks bridge branch bottom bluff bluffs beach bayou burg burgs
    island islands isle junction junctions key keys knoll knolls lake lakes land landing inlet hollow hills heights
    groves annex arcade underpass parade squares streets drives
    """.split()
)

# Given and family names that are rarely another word.
NAMES = frozenset(
    """
    budi agus bambang joko slamet sutrisno wahyu andi hendra rudi hartono eko dwi tri yanto suryadi supriyadi iwan
    irwan ahmad achmad muhammad mohammad rizki rizky fajar bayu aditya dimas galih yoga arif arief rahmat hidayat
    taufik ridwan firman gunawan setiawan kurniawan santoso wibowo nugroho prasetyo saputra wijaya kusuma susanto
    hermawan siti nurhayati fatimah aisyah ayu sari wulandari rina rini ratna wati kartika puspita lestari yuni tuti
    endang yanti lina maya nur nurul laila dian novi fitri fitriani anisa annisa rahayu handayani maharani permata
    salsabila zahra putri putra pratama ramadhan simanjuntak sihombing nasution siregar hutapea situmorang manurung
    simatupang hasibuan lubis pangaribuan made wayan ketut nyoman komang gede gusti kadek luh asep ujang dadang cecep
    tono yono parto kasim usman yusuf ismail ibrahim hasan husein hakim malik irfan ilham reza farhan hafiz fauzi
    zulkifli syahrini tina dewi desi susi yeni citra melati kirana paramita utami kusumawati oktaviani agustina
    mulyani suryani widodo wahyuni sulistyo sulastri suparman sukarno suharto megawati habibie prabowo samosir
    tampubolon sitorus sinaga pardede purba damanik saragih james john robert michael william david richard joseph
    thomas charles christopher daniel matthew anthony steven paul andrew joshua kenneth kevin brian george edward
    ronald timothy jason jeffrey ryan jacob gary nicholas eric jonathan stephen larry justin scott brandon benjamin
    samuel gregory alexander patrick raymond jerry dennis tyler aaron jose adam nathan henry douglas zachary peter
    kyle noah ethan jeremy walter christian keith roger terry austin sean gerald carl harold dylan arthur lawrence
    jordan jesse bryan billy bruce gabriel joe logan alan juan albert willie elijah wayne randy vincent mason roy
    ralph bobby russell bradley philip mary patricia jennifer linda elizabeth barbara susan jessica karen sarah lisa
    nancy sandra betty ashley emily kimberly margaret donna michelle carol amanda melissa deborah stephanie rebecca
    sharon laura cynthia dorothy amy kathleen angela shirley emma brenda pamela nicole anna samantha katherine
    christine helen debra rachel carolyn janet maria catherine heather diane olivia julie joyce victoria ruth virginia
    lauren kelly christina joan evelyn judith andrea hannah megan cheryl jacqueline martha madison teresa gloria sara
    janice ann kathryn abigail sophia frances jean alice judy isabella julia denise danielle marilyn charlotte natalie
    smith johnson jones garcia miller davis rodriguez martinez hernandez lopez gonzalez wilson anderson taylor
    thompson jackson martin lee perez harris sanchez clark ramirez lewis robinson walker allen wright torres nguyen
    adams nelson baker rivera campbell mitchell carter roberts
    """.split()
)

# Words with a capital in the middle of a sentence that are not part of a name.
NOT_NAMES = frozenset(name.casefold() for names in MONTHS.values() for name in names) | frozenset(
    """
    jakarta bandung surabaya medan semarang yogyakarta jogja bekasi depok tangerang bogor malang makassar palembang
    denpasar bali solo batam indonesia singapura singapore malaysia tokyo london paris york america england java jawa
    sumatra sumatera sulawesi kalimantan papua lombok toba bromo borobudur selatan utara barat timur pusat tengah
    japan jepang korea australia europe asia senin selasa rabu kamis jumat sabtu minggu
    monday tuesday wednesday thursday friday saturday sunday natal lebaran ramadan ramadhan idul fitri adha imlek
    nyepi waisak galungan paskah christmas easter diwali eid thanksgiving halloween valentine valentines hanukkah
    nowruz new year years eve tahun baru hari raya mother father mothers fathers day shopee tokopedia lazada bukalapak
    gojek grab samsung apple iphone ipad macbook airpods xiaomi oppo vivo nike adidas uniqlo ikea lego starbucks
    netflix spotify amazon google facebook instagram whatsapp tiktok youtube sony canon nikon nintendo playstation
    xbox kindle moleskine lamy parker tupperware philips dyson gucci prada chanel dior eiger indomie garmin fossil
    casio seiko swarovski pandora bca bni bri mandiri gopay ovo dana rp idr usd jne jnt sicepat dhl fedex ups gift
    card voucher hampers i we you he she it they my our your his her their the a an this that these those there here
    what which who when where why how if so but and or for with from to in on at by of as is are was were be been have
    has had do does did can could will would shall should might must not no yes please thanks thank hello hi hey dear
    best regards sincerely love cheers kind warm happy merry saya aku gue gw kami kita kamu anda dia mereka ini itu
    yang untuk buat dari ke di pada dengan dan atau tapi tetapi karena jadi kalau jika bila apa siapa mana kapan
    kenapa mengapa bagaimana berapa tolong mohon terima kasih selamat halo hai salam hormat kak mas mbak pak bu ibu
    bapak tidak bukan sudah belum akan mau ingin bisa harus semoga ulang hadiah kado budget anggaran acara nama alamat
    nomor telepon hp email catatan tanggal lahir umur notes name address phone mobile date birth order delivery gifts
    occasion interests recipient sender customer company office account policy total price qty team bpk mr mrs ms dr
    prof nik ktp kk npwp wa rek rekening jl jalan gang komplek perum blok rt rw kel kec kota kab english indonesian
    bahasa inggris islam kristen katolik hindu buddha muslim christian jewish catholic hypertension diabetes asthma
    director manager ceo cto hrd hr
    """.split()
)

HONORIFICS = frozenset("pak bapak ibu mrs prof drs haji hajah".split())

# Parts of names only if written with a capital: Dan is a name, dan is and.
PARTICLES = frozenset("bin binti van von der den the and dan".split())

# Too common in names of companies to stand for one.
COMPANY_WORDS = frozenset(
    """
    bank toko rumah universitas university sekolah school yayasan koperasi indonesia nusantara international global
    group grup jaya abadi maju makmur sejahtera utama mandiri sentosa karya mitra
    """.split()
)

LEGAL_FORMS = frozenset(
    """
    pt cv ud tbk persero inc ltd llc plc co corp gmbh company limited corporation incorporated llp pty pte sdn bhd
    """.split()
)

# Words for the type of a body, not its name: University of X, X University, RSUD X, Bank X.
BODY_WORDS = LEGAL_FORMS | frozenset(
    """
    university universitas univ uni institute institut inst college school sekolah academy akademi politeknik
    polytechnic poltek sma smk smp sd tk paud man mts min mi ma sman smkn smpn sdn sdit smait sltp slta stm
    madrasah pondok pesantren ponpes technology teknologi gymnasium kindergarten primary secondary high elementary
    junior senior grammar faculty fakultas kampus campus rs rsu rsud rsup rsia rsi rsj rsk rumah sakit hospital hosp
    klinik clinic puskesmas infirmary surgery medical centre center bank bpr bpd credit union cooperative koperasi
    yayasan foundation trust group grup firm agency services solutions dinas kantor office department ministry
    kementerian kelurahan council
    """.split()
)

# Words between the type of a body and its name.
BODY_JOINERS = frozenset("of the and for at di dan negeri swasta no nomor".split())

STREET_WORDS = frozenset("jl jln jalan gg gang street st road rd avenue ave lane ln drive dr".split())

# Kinds of streets and buildings, each with its short forms.
STREET_KINDS = tuple(
    frozenset(line.split())
    for line in """
    court ct crt
    way wy
    place pl plc
    square sq
    boulevard blvd boul bd
    crescent cres cr crst
    close cl clo
    terrace terr ter tce
    grove gr grv gro
    gardens gdns gdn garden
    mews mws
    row
    walk wlk
    parkway pkwy pky
    highway hwy
    circle cir crcl
    alley aly
    plaza plz
    trail trl
    heights hts hgts
    park pk
    hill hl
    green grn
    gate
    rise
    wharf whf
    quay
    view vw
    house hse ho
    cottage cott
    lodge ldg
    farm fm
    barn
    hall
    manor mnr
    villa villas
    tower towers twr
    apartments apartment apts apt apartemen apart
    mansions mansion
    residence residences residensi
    building bldg gedung gdg
    cluster
    perumahan perum perumnas prm housing estate est
    komplek kompleks komp kompl kpl complex
    rusun rusunawa
    griya
    taman tmn
    lorong lrg lr
    dusun dsn dukuh dk hamlet
    desa ds village
    kampung kp kampong
    kelurahan kel
    kecamatan kec
    ruko
    kavling kav
    blok blk block
    asrama
    kost kos
    """.strip().splitlines()
)

ADDRESS_WORDS = STREET_WORDS | frozenset(
    """
    no nomor nmr number blok block rt rw kel kelurahan kec kecamatan desa dusun kab kabupaten kota komplek kompleks
    perum perumahan apt apartment apartemen suite unit lt lantai floor boulevard blvd court ct way place pl square sq
    """.split()
)

# Common local parts of mail addresses, which identify no person.
MAILBOXES = frozenset(
    """
    hello hallo halo info admin administrator contact kontak office kantor sales support service billing accounts team
    enquiries inquiries marketing webmaster postmaster noreply orders pesan booking reservations careers jobs press
    media family keluarga myself personal private mailbox
    """.split()
)

# Letters that many words begin with; they are not a person's initials.
INITIALS = frozenset(
    """
    ceo cfo cto coo hrd hr ktp nik sim kk npwp usa uk uae eu pin atm vip gps dvd usb led lcd tv pc wifi vpn faq asap diy
    rsvp bmi mri pdf jpg png sms otp app api url html css sql wib wita wit bbm plg pln umkm kpr kta psb osis ppn pph pkk
    rt rw ktm stnk bpkb sop kpi roi ngo phd mba bsc msc ma ba am pm bc ad dna rna usd idr eur gbp
    """.split()
)

# Public hosts of mail and pages.
PUBLIC_HOSTS = frozenset(
    """
    gmail.com googlemail.com yahoo.com yahoo.co.id yahoo.co.uk ymail.com rocketmail.com outlook.com outlook.co.id
    hotmail.com hotmail.co.uk live.com live.co.uk msn.com icloud.com me.com mac.com aol.com proton.me protonmail.com
    pm.me gmx.com gmx.de gmx.net web.de mail.com email.com zoho.com fastmail.com tutanota.com tuta.io yandex.com mail.ru
    qq.com 163.com plasa.com telkom.net btinternet.com sky.com talktalk.net virginmedia.com ntlworld.com comcast.net
    verizon.net att.net sbcglobal.net bellsouth.net cox.net charter.net optusnet.com.au bigpond.com xtra.co.nz
    singnet.com.sg instagram.com facebook.com fb.com twitter.com x.com tiktok.com linkedin.com github.com youtube.com
    t.me wa.me line.me threads.net linktr.ee medium.com wordpress.com blogspot.com tumblr.com tokopedia.com shopee.co.id
    google.com sites.google.com
    """.split()
)

# Words of diagnoses that are also in ordinary sentences.
COMMON_WORDS = frozenset(
    """
    penyakit disease kronis chronic ringan berat sejak since dengan with riwayat history yang terhadap alergi allergy
    allergic stage tahap grade tipe type and the for not but out off his her its our your have has had was were are from
    into dan atau ada tidak bukan tanpa untuk dari pada karena sudah belum pernah sering kadang setiap kali hari minggu
    bulan tahun once twice times time daily day days week weeks month year years every sometimes often never mild severe
    high low bad good left right back side positive negative positif negatif normal general other all any some
    """.split()
)
