"""Columns whose names suggest that they identify a person: names, dates, record and insurance numbers, addresses.

Only the name of a column is examined, in some twenty languages, and in doubt the answer is yes: a false alarm costs one
option, a miss discloses a patient. What cells hold is not examined.
"""

from __future__ import annotations

import re
import unicodedata

NAME, DATE, NUMBER, CONTACT = (
    "a person's name",
    "a date of a person's life",
    "a number given to one person",
    "a contact",
)

# "words" are whole words of a column's name, "stems" parts of it. "things" may be called something ("site_name") without telling
# of a person; slides, files and blocks are none, because their names hold accession numbers. "numbered" of something "personal"
# (specimen no) leads to a person; so does the date of what is "dated".
_TABLE = """
things:
    antibody batch biomarker cell centre center cohort drug gene group lab marker method model organ panel project
    protocol scanner section site stain staining station study subtype tissue treatment trial tumour tumor vendor
name words:
    name names nom noms nombre nome naam namn navn nimi imie jmeno meno nev nume isim initials initialen initiales
    iniciales iniziali имя фио ονομα
date words:
    date dates datum fecha dato tarih дата dob dod dos yob born birthday
number words:
    mrn emr ehr empi mpi urn accession acc accno accnum accessionno ssn ssa nin nino nhs chi npi mbi hicn itin nir
    insee ipp svnr ahv avs dni nie nif nuhsa curp cpf cns rg bsn cpr hetu pesel rut tckn aadhaar snils инн снилс
    паспорт passport passeport pasaporte passaporto reisepass barcode aktenzeichen pid patid ptid nhc personnummer
contact words:
    address addresses adresse adresses direccion indirizzo endereco adres adress osoite email mail phone telephone
    telefon telefono telefone telefoon mobile fax postcode zip zipcode plz street strasse адрес телефон url ip
name stems:
    surname firstname lastname middlename maidenname givenname familyname fullname forename patientname nachname
    vorname familienname patientenname geburtsname fodselsnavn apellido prenom cognome sobrenome voornaam achternaam
    fornamn efternamn fornavn etternavn efternavn sukunimi etunimi nazwisk prijmeni priezvisk vezeteknev soyad soyisim
    фамили отчеств επωνυμ 姓名 氏名 名前 患者名 성명 이름
number stems:
    socialsecurity medicalrecord accession securitesociale numsecu seguridadsocial codicefiscale tesserasanitaria
    sozialversicher krankenversich versichertennummer burgerservice personnummer fodselsnummer fodselsnr henkilotunnus
    rodnecislo healthcard healthinsurance insurancen nationalid nationalinsurance identitycard личность полис 身份证 病歴番号
    病案号 住院号 マイナンバー 保険証 주민등록 등록번호
date stems:
    birth geburt naissance nacimiento nascita nascimento geboort fodelse fodsel fodt syntyma urodz narozen naroden
    szuletes nasterii dogum рожд народж γεννησ 出生 誕生 生年 생년 생일 deathdate 日期 日付 날짜
contact stems:
    emailaddress phonenumber telefonnummer 住所 地址 电话 電話 주소 전화
personal:
    patient patienten patientin pat pt person personal people subject participant donor case fall hospital clinic
    klinik krankenhaus medical record chart file folder akte dossier expediente historia cartella nosologico journal
    lab labor laboratory specimen biopsy biopsie accession histology histologie histo pathology pathologie path order
    auftrag auftrags befund eingang eingangs encounter visit admission stay sejour account insurance versicherung
    versicherten assure member policy identity ausweis tax steuer driver drivers licence license medicare medicaid
    health national citizen resident slide block paciente paziente doente patientens pasient potilas pacjent pacjenta
    pacient pacienta beteg hasta пациента больного
numbered:
    id ids no nos nr nrs num nums number numbers nummer nummern numero numer nro identifier identifiant kennung ref
    reference номер cislo szam numarasi
dated:
    scan biopsy surgery operation resection death admission discharge diagnosis collection visit sample specimen
    received report sampling exam procedure consent enrolment enrollment followup
"""

# Letters that have no decomposition into a letter and a mark.
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th"})


def find_personal(column: str) -> str | None:
    """What a column's name suggests of a person; None where it suggests nothing.

    >>> find_personal("Date of birth"), find_personal("GeburtsDatum"), find_personal("patient_name")
    ("a date of a person's life", "a date of a person's life", "a person's name")
    >>> find_personal("site_name"), find_personal("tumour stage"), find_personal("patient")
    (None, None, None)
    """
    words = _split(column)
    kinds = (_kind_of_stem("".join(words)), _kind_of_words(frozenset(words)), *map(_kind_of_compound, words))
    return next((kind for kind in kinds if kind), None)


def _split(text: str) -> list[str]:
    """Words in small letters without accents: ``dateDeNaissance`` is three."""
    parted = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", " ", unicodedata.normalize("NFC", text))
    return re.findall(r"[^\W_]+", _fold(parted))


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold().translate(_PLAIN))
    marked = (character for character in decomposed if not unicodedata.combining(character))
    return unicodedata.normalize("NFC", "".join(marked))


def _read_table(text: str) -> dict[str, tuple[str, ...]]:
    parts = re.split(r"^(\w.*):$", text, flags=re.MULTILINE)
    return {title: tuple(_fold(words).split()) for title, words in zip(parts[1::2], parts[2::2], strict=True)}


_WORDS = _read_table(_TABLE)
_KINDS = {"name": NAME, "number": NUMBER, "date": DATE, "contact": CONTACT}
_PERSONAL, _NUMBERED, _DATED = ("|".join(_WORDS[title]) for title in ("personal", "numbered", "dated"))
_COMPOUND = re.compile(rf"(?:{_PERSONAL}|id)(?:s|e|en|n)?(?:{_NUMBERED})")
_COMPOUND_DATE = re.compile(rf"(?:{_DATED})dates?|\w*datum")


def _kind_of_stem(joined: str) -> str | None:
    found = (kind for name, kind in _KINDS.items() if any(stem in joined for stem in _WORDS[f"{name} stems"]))
    return next(found, None)


def _kind_of_words(words: frozenset[str]) -> str | None:
    for name, kind in _KINDS.items():
        is_of_thing = kind == NAME and not words.isdisjoint(_WORDS["things"])
        if not is_of_thing and not words.isdisjoint(_WORDS[f"{name} words"]):
            return kind
    is_number = not words.isdisjoint(_WORDS["numbered"]) and not words.isdisjoint(_WORDS["personal"])
    return NUMBER if is_number or words == {"id"} else None


def _kind_of_compound(word: str) -> str | None:
    if _COMPOUND_DATE.fullmatch(word):
        return DATE
    return NUMBER if _COMPOUND.fullmatch(word) else None
