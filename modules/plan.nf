include { mounts ; option ; quoted ; task_environment ; to_json } from './inputs.nf'

// Validates the training sheet, the recipe and the methods, and names every model to train.
process PLAN {
    label 'process_light'
    // It looks at the files of every slide, which its inputs do not name.
    cache false
    containerOptions { mounts(link_folders) }

    input:
    tuple path(sheet), path(slides, stageAs: 'slides/?/*'), val(link_folders)
    tuple path(recipe, stageAs: 'recipe/*'), val(recipe_name)
    val methods // names; none for the recipe's own
    path panel, stageAs: 'panel/*'
    path gene_text, stageAs: 'text/*'
    path unseen_genes, stageAs: 'unseen/*'
    val encoder_weights // what trained encoders start from, which is not looked at here; or empty

    output:
    path 'plan.json', emit: plan

    script:
    """
    ${task_environment(task)}histocast plan \\
        --input ${sheet} \\
        ${option('--recipe', recipe, recipe_name)} \\
        ${methods.collect { method -> "--method ${quoted(method)}" }.join(' ')} \\
        ${option('--panel', panel, null)} \\
        ${option('--gene-text', gene_text, null)} \\
        ${option('--unseen-genes', unseen_genes, null)} \\
        ${option('--encoder-weights', null, encoder_weights)}
    """

    stub:
    def models = (methods ?: ['demo']).collectMany { method ->
        [
            [id: "${method}-strict-P1", method: method, protocol: 'strict', fold: 'P1', bundle: '', device: 'cpu', threads: 1],
            [id: "${method}-strict-all", method: method, protocol: 'strict', fold: 'all', bundle: method, device: 'cpu', threads: 1],
        ]
    }
    // Takes the columns sample, slide, counts and spots as they are.
    """
    awk -F, '
        NR == 1 { for (i = 1; i <= NF; i++) column[\$i] = i; next }
        NF { printf "%s{\\"sample\\": \\"%s\\", \\"slide\\": \\"s3://stub/%s\\", \\"counts\\": \\"s3://stub/counts\\", \\"spots\\": null}",
             (rows++ ? ", " : ""), \$column["sample"], \$column["slide"] }
    ' ${sheet} > sections
    printf '{"encoders": ["morphology"], "preparation": {}, "pixels": false, "recipes": %s, "sections": [%s], "models": %s}\\n' \\
        ${quoted(to_json(models.collectEntries { model -> [model.method, [:]] }))} \\
        "\$(cat sections)" ${quoted(to_json(models))} > plan.json
    """
}
