"""Columns that may identify a person are recognised by their names, in many spellings and languages; others are not."""

from __future__ import annotations

import pytest

from histocast.personal_data import CONTACT, DATE, NAME, NUMBER, find_personal

PERSONAL = {
    NAME: (
        "name, Name, patient name, patient_name, PatientName, PATIENT.NAME, last-name, lastName, surname, Full Name, initials, Pat. Initials, "
        "maiden name, pathologist name, Nachname, Vorname, Name des Patienten, nom, Prénom, NOM_PATIENT, nombre, Apellidos, nome, "
        "Cognome, Sobrenome, naam, Achternaam, namn, Efternamn, Fødselsnavn, etternavn, sukunimi, imię, Nazwisko, jméno, Příjmení, név, "
        "Soyadı, Фамилия, имя, Отчество, ФИО, Επώνυμο, 姓名, 氏名, 名前, 이름"
    ),
    DATE: (
        "dob, DOB, D.O.B. date, date of birth, birth_date, BirthDate, birthday, year of birth, biopsy_date, scandate, date, Date of Death, "
        "Geburtsdatum, geb. datum, Entnahmedatum, Date de naissance, né(e) date, fecha de nacimiento, Data di nascita, data de nascimento, "
        "geboortedatum, födelsedatum, fødselsdato, syntymäaika, data urodzenia, datum narození, születési dátum, doğum tarihi, "
        "Дата рождения, ημερομηνία γέννησης, 生年月日, 出生日期, 생년월일"
    ),
    NUMBER: (
        "mrn, MRN, Medical Record Number, medical_record_no, record number, patient id, patientID, PatientId, patient_nr, pid, chart no, "
        "case_id, CaseNumber, hospital number, accession, Accession No., accession_number, acc_no, accessionNumber, specimen id, lab no, "
        "order number, visit id, encounterId, slide id, block number, barcode, id, ID, ssn, SSN, S.S.N. ssn, social security number, "
        "SocialSecurityNo, insurance number, policy no, NHS number, nhs_no, CHI, medicare id, passport, driver license no, national id, "
        "Patientennummer, Patienten-Nr, Fallnummer, Versichertennummer, Sozialversicherungsnummer, Befundnummer, AHV-Nr, numéro de sécurité "
        "sociale, numéro de dossier, INSEE, DNI, número de historia, codice fiscale, CPF, BSN, personnummer, Fødselsnummer, CPR-nr, "
        "henkilötunnus, PESEL, rodné číslo, TCKN, СНИЛС, номер пациента, 身份证号, マイナンバー, 주민등록번호, 住院号"
    ),
    CONTACT: "address, e-mail address, email, Phone, phone number, telephone, mobile, fax, zip, Postcode, Adresse, dirección, PLZ, 住所, 전화번호",
}
HARMLESS = (
    "patient, donor, subject, age, sex, gender, site, site_name, hospital, centre, scanner, scanner name, stain, stain_name, tissue, "
    "organ, diagnosis, grade, stage, path_stage, pT, pN, nodes, ER, PR, HER2, HER2 status, ki67, subtype, outcome, survival_months, "
    "time to event, event, treatment, response, cohort, cohort_id, batch, batch_no, study_id, site_id, section, fixation, group, "
    "gene_name, notes, update, candidate, mandate, nominal, denominator, tumour, size mm, thickness_um, ward, race, smoker, phase, "
    "Größe, Alter, Geschlecht, Diagnose, âge, sexe, edad, età, leeftijd, ålder, wiek, věk, возраст, 年齢, 性别"
)


def cases(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in PERSONAL for name in cases(PERSONAL[kind])])
def test_a_name_that_may_identify_a_person_is_recognised(kind, name):
    assert find_personal(name) == kind


@pytest.mark.parametrize("name", cases(HARMLESS))
def test_what_a_study_asks_for_is_taken(name):
    assert find_personal(name) is None
