#!/usr/bin/env nextflow

include { CHECK } from './modules/check.nf'
include { TILE } from './modules/tile.nf'
include { ENCODE } from './modules/encode.nf'
include { ENCODE as PROVE_IMAGE ; COHORT as PROVE_COHORT_IMAGE } from './modules/prove_image.nf'
include { PREDICT } from './modules/predict.nf'
include { REPORT } from './modules/report.nf'
include { SUMMARISE } from './modules/summarise.nf'
include { COHORT } from './modules/cohort.nf'
include { PROVENANCE ; facts_of_run } from './modules/provenance.nf'
include { CONCLUDE } from './modules/conclude.nf'
include { release_lock ; take_lock } from './modules/lock.nf'
include { PLAN } from './modules/plan.nf'
include { PREPARE_ENCODERS } from './modules/prepare_encoders.nf'
include { PREPARE } from './modules/prepare.nf'
include { TRAIN } from './modules/train.nf'
include { EVALUATE } from './modules/evaluate.nf'
include { EXPORT } from './modules/export.nf'
include { LINEAGE } from './modules/lineage.nf'
include { folders_to_open ; local_file ; local_files ; part_of ; read_plan ; read_samples ; read_sections ; recipe_of ; runs_in_containers ; whole_file } from './modules/inputs.nf'
include { check_parameters ; describe_parameters ; values_of ; as_json } from './modules/parameters.nf'

// From slides to expression. Every row of the samplesheet reaches the summary, whatever became of it.
workflow PREDICT_SLIDES {
    take:
    input // samplesheet; like the next two a path, or an s3:// URI
    bundle
    genes // gene panel, or null for the bundle's own
    report_genes // genes of the pages' maps with commas between them, or null
    report // whether samples get pages
    formats // of a sample's files, with commas between them
    max_unreadable
    on_slide_error
    allow_metadata // columns with commas between them, or null
    cohort // whether slides are gathered as one data set
    signatures // GMT file of gene sets, or null
    batch // column of the samplesheet, or null
    outdir
    run // JSON: what the head process alone knows of this run

    main:
    staged_bundle = tuple(local_file(bundle), bundle)
    staged_genes = tuple(local_file(genes), genes)

    CHECK(
        [local_file(input), input] + folders_to_open(input, [bundle, genes]),
        staged_bundle,
        staged_genes,
        report_genes ?: '',
        on_slide_error,
        allow_metadata ?: '',
        cohort,
        // The image of CHECK lacks what that of REPORT has.
        runs_in_containers() ? '' : formats,
    )
    samples = CHECK.out.samples.flatMap { file -> read_samples(file) }
    slides = samples.map { meta -> tuple(meta, local_files(meta.files ?: [])) }
    spots = samples.map { meta -> tuple(meta, local_files([meta.spots])) }

    works = channel.value(true)
    if (runs_in_containers()) {
        works = cohort || formats.tokenize(',').contains('spatialdata') ? PROVE_IMAGE().works.combine(PROVE_COHORT_IMAGE().works).map { _one, _other -> true } : PROVE_IMAGE().works
    }

    TILE(slides.join(spots), staged_bundle)
    to_encode = slides
        .join(TILE.out.tiles)
        .combine(works)
        .map { meta, slide, record, tiles, _works -> tuple(meta, slide, record, tiles) }
    ENCODE(to_encode, staged_bundle, max_unreadable)
    PREDICT(TILE.out.tiles.join(TILE.out.thumbnail).join(ENCODE.out.features), staged_bundle, staged_genes)
    REPORT(TILE.out.tiles.join(TILE.out.thumbnail).join(TILE.out.tissue).join(PREDICT.out.anndata), report_genes ?: '', report, formats, cohort)

    // Sorted, because an order that changes between runs would make -resume summarise again.
    status = TILE.out.status.mix(ENCODE.out.status, PREDICT.out.status, REPORT.out.status).toSortedList()
    SUMMARISE(CHECK.out.samples.map { file -> file.text }, status, cohort)
    if (cohort) {
        // Where no slide was predicted there is nothing to gather.
        gathered = PREDICT.out.summary.map { _meta, file -> file }.toSortedList().filter { files -> files }
        COHORT(SUMMARISE.out.table, gathered, tuple(local_file(signatures), signatures), batch ?: '', report)
    }
    PROVENANCE(run, CHECK.out.samples, SUMMARISE.out.outcomes)
    ended = SUMMARISE.out.failures.combine(SUMMARISE.out.outcomes).combine(PROVENANCE.out.crate)
    CONCLUDE(ended.map { failures, outcomes, _crate -> tuple(failures, outcomes) }, on_slide_error, outdir)
}

// From slides with counts to figures, and one bundle per method.
workflow TRAIN_MODELS {
    take:
    input // training sheet
    recipe // file, or the name of a shipped one
    methods // names with commas between them, or null for the recipe's own
    panel // gene panel, or null for the recipe's own
    gene_text // embedded genes, or null
    unseen_genes // genes to leave out of training, or null
    run // JSON: what the head process alone knows of this run
    encoders // folders of export-encoder with commas between them, or null
    encoder_weights // what trained encoders start from, or null

    main:
    sheet = whole_file(input)
    staged_text = whole_file(gene_text)
    staged_encoders = encoders ? encoders.tokenize(',').collect { folder -> whole_file(folder.trim()) } : []
    staged_weights = whole_file(encoder_weights)

    named = [recipe.toString().endsWith('.json') ? recipe : null, panel, gene_text, unseen_genes, encoder_weights]
    opened = folders_to_open(input, named + (encoders ? encoders.tokenize(',')*.trim() : []))

    PLAN(
        [sheet] + opened,
        tuple(recipe.toString().endsWith('.json') ? whole_file(recipe) : [], recipe),
        methods ? methods.tokenize(',')*.trim() : [],
        whole_file(panel),
        staged_text,
        whole_file(unseen_genes),
        encoder_weights ?: '',
    )
    plan = PLAN.out.plan.map { json -> read_plan(json) }
    // Waits for the plan, so that nothing is encoded for a sheet with a fault.
    rows = plan.flatMap { found -> read_sections(found) }

    prepared_by = plan.map { found -> part_of(found, ['preparation', 'encoders', 'pixels']) }
    PREPARE_ENCODERS(prepared_by, staged_encoders)
    PREPARE(rows, tuple(sheet, opened[1]), prepared_by, PREPARE_ENCODERS.out.encoders)
    sections = PREPARE.out.section.toSortedList()

    models = plan.flatMap { found -> found.models.collect { model -> tuple(model, recipe_of(found, model.method)) } }
    TRAIN(models, sections, staged_text, staged_weights)
    trained = TRAIN.out.model.branch { model, folder ->
        bundle: model.bundle
            return tuple(model.bundle, folder)
        fold: true
            return folder
    }
    // Where planning fails the channels above end empty, and nothing must come of nothing.
    EVALUATE(trained.fold.toSortedList().filter { folders -> folders }, sections)
    EXPORT(trained.bundle, EVALUATE.out.evaluation, PREPARE_ENCODERS.out.encoders)

    LINEAGE(
        run,
        PREPARE.out.section.map { folder -> folder.resolve('section.json') }.toList().filter { records -> records },
        TRAIN.out.model.map { _model, folder -> folder.resolve('train.json') }.toList(),
        EXPORT.out.bundle.map { _name, folder -> folder.resolve('bundle.json') }.toList(),
        EVALUATE.out.evaluation.mix(EVALUATE.out.tables).flatten().toList(),
        plan.map { found -> recipe_of(found, found.models.first().method) },
    )
}

workflow {
    schema = file("${projectDir}/nextflow_schema.json")
    if (params.help) {
        println(describe_parameters(schema))
    }
    else {
        check_parameters(schema, params)
        parameters = values_of(schema, params)
        lock = take_lock(params.outdir)
        workflow.onComplete { release_lock(lock) }
        channel.of(as_json(parameters))
            .collectFile(name: 'params.json', storeDir: "${params.outdir}/pipeline_info", newLine: true)
        // Nextflow's own diagram is a page that loads a script from the network; -with-dag still writes it.
        file("${projectDir}/docs/images/${params.workflow}.svg").copyTo("${params.outdir}/pipeline_info/workflow.svg")
        if (params.workflow == 'train') {
            TRAIN_MODELS(
                params.input,
                params.recipe,
                params.methods,
                params.genes,
                params.gene_text,
                params.unseen_genes,
                facts_of_run(parameters),
                params.encoders,
                params.encoder_weights,
            )
        }
        else {
            PREDICT_SLIDES(
                params.input,
                params.bundle,
                params.genes,
                params.report_genes,
                params.report,
                params.formats,
                params.max_unreadable,
                params.on_slide_error,
                params.allow_metadata,
                params.cohort,
                params.signatures,
                params.batch,
                params.outdir,
                facts_of_run(parameters),
            )
        }
    }
}
